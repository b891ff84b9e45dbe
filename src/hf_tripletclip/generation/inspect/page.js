(() => {
  "use strict";
  const FIRST = 24;
  const grid = document.getElementById("grid");
  if (!grid) return;
  const controls = document.getElementById("controls");
  const more = document.getElementById("more");
  const shown = document.getElementById("shown");
  const chosen = (name) => document.getElementById(name)?.value ?? "";
  const cards = [...grid.children].map((element) => ({
    element,
    kinds: JSON.parse(element.dataset.kinds),
    scores: JSON.parse(element.dataset.scores),
    split: element.dataset.split,
  }));
  let all = false;

  function update() {
    const kind = chosen("kind");
    const split = chosen("split");
    const [score, way] = chosen("sort").split(" ");
    const ordered = cards.slice();
    if (score) {
      const sign = way === "up" ? 1 : -1;
      // Rows without the score come last either way.
      const value = (card) => (score in card.scores ? sign * card.scores[score] : Infinity);
      ordered.sort((first, second) => value(first) - value(second) || 0);
    }
    let fitting = 0;
    for (const card of ordered) {
      const fits = (!kind || card.kinds.includes(kind)) && (!split || card.split === split);
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
