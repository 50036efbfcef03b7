// What the interactive figures share.
// `partition` repeats the rules of trac/partition.py to the last bit and is tested against them; D3 draws.
if (typeof document === "undefined") require("./d3.js"); // the tests
globalThis.explorer = (() => {
  "use strict";

  const DESIRABLE = 1, UNDESIRABLE = 0, NEITHER = -1;

  // segments: {returns, costs, length L, horizon T}; settings: {limit, top, bottom, kappa}.
  // Returns {threshold, labels, weights}, or {threshold, error} for settings that leave a class empty.
  function partition({ returns, costs, length, horizon }, { limit, top, bottom, kappa }) {
    const threshold = limit * length / horizon;
    const fail = (error) => ({ threshold, error });
    if (top + bottom > 1 + 1e-9) {
      return fail(`x + y = ${short(top + bottom)} is more than 1: a segment cannot be in both classes. Lower x or y.`);
    }
    const safe = [...costs.keys()].filter((i) => costs[i] <= threshold);
    if (safe.length === 0) {
      const least = Math.min(...costs);
      return fail(
        `No segment is safe: the limit allows a cost of ${short(threshold)} in ${length} steps, and the smallest ` +
          `cost is ${short(least)}. Raise the cost limit to at least ${short(least * horizon / length)}.`
      );
    }
    const labels = costs.map((cost) => (cost > threshold ? UNDESIRABLE : NEITHER));
    const ranked = [...safe].sort((a, b) => returns[a] - returns[b]); // stable, as the argsort in Python
    for (const i of ranked.slice(ranked.length - Math.ceil(top * ranked.length))) labels[i] = DESIRABLE;
    for (const i of ranked.slice(0, Math.ceil(bottom * ranked.length))) labels[i] = UNDESIRABLE;
    if (!labels.includes(UNDESIRABLE)) {
      const most = Math.max(...costs) * horizon / length;
      return fail(
        `No segment is undesirable: none costs more than ${short(threshold)}, and y is 0. Lower the cost limit ` +
          `below ${short(most)}, or raise y to make the safe segments of lowest return undesirable.`
      );
    }
    if (!labels.includes(DESIRABLE)) {
      return fail(`No segment is desirable: y took all ${ranked.length} safe segments. Lower y.`);
    }

    const weights = costs.map(() => 1);
    const low = returns[ranked[0]], high = returns[ranked[ranked.length - 1]];
    if (high > low) {
      for (const i of safe) {
        const rank = (returns[i] - low) / (high - low);
        weights[i] = Math.fround((1 - kappa) * (labels[i] === DESIRABLE ? rank : 1 - rank) + kappa);
      }
    }
    return { threshold, labels, weights };
  }

  const short = (value) => String(Number(value.toFixed(2)));
  const NAMES = { [DESIRABLE]: "desirable", [UNDESIRABLE]: "undesirable", [NEITHER]: "neither" };
  const members = (labels, label) => [...labels.keys()].filter((i) => labels[i] === label);

  // The marks of all figures, by the name of their class in explorer.css.
  const SYMBOLS = {
    desirable: d3.symbolCircle, undesirable: d3.symbolTimes, neither: d3.symbolSquare, policy: d3.symbolDiamond2,
    average: d3.symbolCross, end: d3.symbolCircle,
  };
  // Outline of a mark that is as large as a circle of radius r; what is in neither class has no weight and one size.
  const mark = (name, r) => d3.symbol(SYMBOLS[name], name === "neither" ? 25 : Math.PI * r ** 2)();
  const item = (name, text, d = mark(name, 5)) =>
    `<li><svg aria-hidden="true"><path class="${name}" transform="translate(7,7)" d="${d}"/></svg>${text}</li>`;

  // The one child of its kind, made where it is missing.
  function one(parent, tag, name, attributes = {}) {
    const node = parent.selectChildren(`${tag}.${name}`).data([name]).join(tag).attr("class", name);
    for (const [key, value] of Object.entries(attributes)) node.attr(key, value);
    return node;
  }

  // points: [x, y, r] in pixels.
  const marks = (parent, name, points) =>
    one(parent, "g", name).selectAll("path").data(points).join("path")
      .attr("transform", ([x, y]) => `translate(${x},${y})`).attr("d", ([, , r]) => mark(name, r));

  // Scales from the data to pixels, with their axes drawn.
  function axes(parent, width, height, xDomain, yDomain, xName, yName) {
    const left = 52, bottom = height - 44, above = 18;
    const x = d3.scaleLinear(xDomain, [left, width - 8]), y = d3.scaleLinear(yDomain, [bottom, above]);
    const across = d3.axisBottom(x).ticks(width / 90), up = d3.axisLeft(y).ticks(6);
    one(parent, "g", "x", { transform: `translate(0,${bottom})` }).call(across.tickSizeOuter(0));
    one(parent, "g", "y", { transform: `translate(${left},0)` }).call(up.tickSizeOuter(0));
    one(parent, "text", "x", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }).text(xName);
    one(parent, "text", "y", { y: above - 5 }).text(yName);
    return { x, y, above, bottom };
  }

  // The cloud of segments with the limit. Returns the axes' scales.
  function plot(svg, view, { threshold, labels = view.costs.map(() => NEITHER), weights }) {
    const { costs, returns, length } = view, width = svg.node().clientWidth;
    const height = Math.max(260, Math.min(420, 0.6 * width));
    const most = d3.max([...costs, threshold, 1]), [low, high] = d3.extent([...returns, 0]);
    svg.attr("height", height);
    const { x, y, above, bottom } = axes(
      svg, width, height, [-0.5 - most / 80, 1.02 * most], [low, 1.02 * high], `cost of ${length} steps`, "return"
    );
    // Costs are whole numbers: spread by up to half of one to the left, points do not hide each other.
    const at = (i) => [x(costs[i] - 0.5 * ((i * 0.618) % 1)), y(returns[i]), 1 + 3 * weights?.[i]];
    for (const label of [NEITHER, UNDESIRABLE, DESIRABLE]) marks(svg, NAMES[label], members(labels, label).map(at));
    const limit = one(svg, "g", "threshold", { transform: `translate(${x(threshold)},0)` });
    const [side, anchor] = x(threshold) > width - 90 ? [-5, "end"] : [5, "start"];
    one(limit, "line", "limit", { y1: above, y2: bottom });
    one(limit, "text", "name", { x: side, y: above - 5, "text-anchor": anchor }).text(`limit ${short(threshold)}`);
    return { x, y };
  }

  function describe(view, { threshold, error, labels, weights }, more = "") {
    const sample = view.returns.length < view.total ? `A sample of ${view.returns.length} of the ` : "";
    const total = view.total.toLocaleString("en");
    const unsafe = view.costs.filter((cost) => cost > threshold).length;
    const head =
      `<p>${sample}${total} segments of ${view.length} steps; safe up to a cost of ${short(threshold)}: ` +
      `${view.costs.length - unsafe} safe, ${unsafe} unsafe</p>`;
    if (error) return `${head}<p class="impossible">${error}</p>`;
    const items = [DESIRABLE, UNDESIRABLE, NEITHER].map((label) => {
      const name = NAMES[label], found = members(labels, label);
      if (label === NEITHER) return item(name, `<b>${found.length}</b> in neither class`);
      const parts = label === UNDESIRABLE ? ` (${unsafe} unsafe, ${found.length - unsafe} safe)` : "";
      const range = d3.extent(found, (i) => weights[i]).map((weight) => weight.toFixed(3)).join(" to ");
      return item(name, `<b>${found.length}</b> ${name}${parts}, weights ${range}`);
    });
    return `${head}<ul>${items.join("")}${more}</ul>`;
  }

  function show(input, text) {
    input.previousElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  // Set up the figures of a class. setUp(svg, data, controls), with the controls by the last word of their ids, returns
  // the function that draws one by its controls, and that returns what is to be said below it.
  function mount(name, setUp) {
    if (typeof document === "undefined") return; // the tests
    for (const root of document.querySelectorAll(`.${name}:not([data-ready])`)) {
      root.dataset.ready = "yes";
      const svg = d3.select(root.querySelector("svg")), result = root.querySelector(".result");
      const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
      const controls = [...root.querySelectorAll("[id]")].map((node) => [node.id.split("-")[1], node]);
      const draw = setUp(svg, data, Object.fromEntries(controls));
      let said;
      const update = () => {
        for (const input of root.querySelectorAll("input")) show(input, String(Number(input.value)));
        const text = draw();
        if (text !== said) result.innerHTML = said = text; // a screen reader says it again else
      };
      root.addEventListener("input", update);
      let width = 0;
      new ResizeObserver(() => {
        const now = svg.node().clientWidth;
        if (!now || now === width) return; // 0 where the figure is hidden
        width = now;
        update();
      }).observe(svg.node());
    }
  }

  return { DESIRABLE, partition, short, members, mark, marks, item, one, axes, plot, describe, show, mount };
})();
if (typeof document === "undefined") module.exports = explorer;
