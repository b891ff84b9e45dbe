.PHONY: check docs format test test-slow

check:  ## what a pull request must pass
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format:
	ruff check --fix .
	ruff format .

test:
	pytest -n auto --dist loadfile

test-slow:
	pytest -n auto --dist loadfile -m slow

docs:  ## the site, into site/; `mkdocs serve` shows it while you write
	mkdocs build --strict
