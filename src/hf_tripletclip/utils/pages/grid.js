(() => {
  "use strict";
  const FIRST = 24;
  const grid = document.getElementById("grid");
  if (!grid) return;
  const controls = document.getElementById("controls");
  const more = document.getElementById("more");
  const shown = document.getElementById("shown");
  const filters = [...controls.querySelectorAll("select[data-by]")];
  const values = (text) => (text.startsWith("[") ? JSON.parse(text) : [text]);
  const cards = [...grid.children].map((element) => ({
    element,
    scores: JSON.parse(element.dataset.scores),
    tags: Object.fromEntries(filters.map(({ dataset }) => [dataset.by, values(element.dataset[dataset.by])])),
  }));
  let all = false;

  function update() {
    const chosen = filters.filter((box) => box.value).map((box) => [box.dataset.by, box.value]);
    const [score, way] = (document.getElementById("sort")?.value ?? "").split(" ");
    const ordered = cards.slice();
    if (score) {
      const sign = way === "up" ? 1 : -1;
      // Rows without the score come last either way.
      const value = (card) => (score in card.scores ? sign * card.scores[score] : Infinity);
      ordered.sort((first, second) => value(first) - value(second) || 0);
    }
    let fitting = 0;
    for (const card of ordered) {
      const fits = chosen.every(([by, value]) => card.tags[by].includes(value));
      fitting += fits;
      card.element.hidden = !fits || (!all && fitting > FIRST);
      grid.append(card.element);
    }
    const visible = all ? fitting : Math.min(fitting, FIRST);
    shown.textContent = visible + " of " + fitting + (fitting === 1 ? " row" : " rows");
    more.hidden = visible === fitting;
  }

  more.addEventListener("click", () => { all = true; update(); });
  controls.addEventListener("change", update);
  controls.hidden = false;
  update();
})();
