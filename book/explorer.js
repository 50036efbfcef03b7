// What the interactive figures share.
// `partition` repeats the rules of trac/partition.py to the last bit and is tested against them; the rest draws.
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
  const pixels = (...values) => values.map((value) => Math.round(10 * value) / 10);

  // Round numbers, about `count` of them, that cover low to high.
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  // The marks of all figures, by the name of their class in explorer.css.
  const MARKERS = {
    desirable: (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"/>`,
    undesirable: (x, y, r) => `<path d="M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}"/>`,
    neither: (x, y) => `<path d="M${x - 2.5} ${y - 2.5}h5v5h-5z"/>`,
    policy: (x, y, r) => `<path d="M${x - r} ${y}l${r} ${-r}l${r} ${r}l${-r} ${r}z"/>`,
    average: (x, y, r) => `<path d="M${x - r} ${y - 2}v4h${r - 2}v${r - 2}h4v${2 - r}h${r - 2}v-4h${2 - r}v${2 - r}h-4v${r - 2}z"/>`,
    end: (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"/>`,
    sum: (x, y, r) => `<path d="M${x - r} ${y}h${2 * r}l${-r} ${-r}m${r} ${r}l${-r} ${r}"/>`,
  };
  const NAMES = { [DESIRABLE]: "desirable", [UNDESIRABLE]: "undesirable", [NEITHER]: "neither" };
  const marks = (name, points) => `<g class="${name}">${points.map((point) => MARKERS[name](...point)).join("")}</g>`;
  const item = (name, text) => `<li><svg aria-hidden="true">${marks(name, [[7, 7, 5]])}</svg>${text}</li>`;

  // Scales from the data to pixels of the svg, their inverses, and the two axes as markup.
  function axes(svg, height, [xMin, xMax], [yMin, yMax], xName, yName) {
    const width = svg.clientWidth, left = 52, bottom = height - 44, above = 18;
    const right = width - 8, start = left + 8;
    const x = (value) => start + (value - xMin) / (xMax - xMin) * (right - start);
    const y = (value) => bottom - (value - yMin) / (yMax - yMin) * (bottom - above);
    const xTicks = ticks(xMin, xMax, width < 450 ? 5 : 9).map(
      (t) => `<path class="axis" d="M${x(t)} ${bottom}v5"/>` +
        `<text x="${x(t)}" y="${bottom + 18}" text-anchor="middle">${t}</text>`
    );
    const yTicks = ticks(yMin, yMax, 6).map(
      (t) => `<path class="axis" d="M${left} ${y(t)}h-5"/>` +
        `<text x="${left - 8}" y="${y(t) + 4}" text-anchor="end">${t}</text>`
    );
    svg.setAttribute("height", height);
    const markup =
      `<path class="axis" d="M${left} ${above}V${bottom}H${width}"/>` + xTicks.join("") + yTicks.join("") +
      `<text x="${(left + width) / 2}" y="${height - 6}" text-anchor="middle">${xName}</text>` +
      `<text x="0" y="${above - 5}">${yName}</text>`;
    return {
      x, y, bottom, above, width, markup,
      valueX: (pixel) => xMin + (pixel - start) / (right - start) * (xMax - xMin),
      valueY: (pixel) => yMin + (bottom - pixel) / (bottom - above) * (yMax - yMin),
    };
  }

  // The cloud of segments with the limit; `more(axes)` is markup to draw over it. Returns the axes.
  function plot(svg, view, { threshold, labels, weights }, more = () => "") {
    const height = Math.max(260, Math.min(420, 0.6 * svg.clientWidth));
    const frame = axes(
      svg, height, [-0.5, 1.02 * Math.max(...view.costs, threshold, 1)],
      [Math.min(...view.returns, 0), 1.02 * Math.max(...view.returns)], `cost of ${view.length} steps`, "return"
    );
    const groups = { neither: [], undesirable: [], desirable: [] };
    view.costs.forEach((cost, i) => {
      const weight = weights ? weights[i] : 0;
      // Costs are whole numbers: spread by up to half of one to the left, points do not hide each other.
      const at = pixels(frame.x(cost - 0.5 * ((i * 0.618) % 1)), frame.y(view.returns[i]), 1 + 3 * weight);
      groups[NAMES[labels ? labels[i] : NEITHER]].push(at);
    });
    const line = frame.x(threshold), end = line > frame.width - 90;
    svg.innerHTML =
      Object.entries(groups).map(([name, points]) => marks(name, points)).join("") + frame.markup +
      `<path class="limit" d="M${line} ${frame.above}V${frame.bottom}"/>` +
      `<text x="${line + (end ? -5 : 5)}" y="${frame.above - 5}" text-anchor="${end ? "end" : "start"}">` +
      `limit ${short(threshold)}</text>` + more(frame);
    return frame;
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
      const name = NAMES[label], members = [...labels.keys()].filter((i) => labels[i] === label);
      const found = members.map((i) => weights[i]);
      let text = `<b>${members.length}</b> ${name === "neither" ? "in neither class" : name}`;
      if (label === UNDESIRABLE) text += ` (${unsafe} unsafe, ${members.length - unsafe} safe)`;
      if (label !== NEITHER) text += `, weights ${Math.min(...found).toFixed(3)} to ${Math.max(...found).toFixed(3)}`;
      return item(name, text);
    });
    return `${head}<ul>${items.join("")}${more}</ul>`;
  }

  // Call moved(x, y), in pixels of the svg, while a pointer drags the element.
  function drag(svg, element, moved) {
    const move = (event) => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const box = svg.getBoundingClientRect();
      moved(event.clientX - box.left, event.clientY - box.top);
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      move(event);
    });
    element.addEventListener("pointermove", move);
  }

  function show(input, text) {
    input.previousElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  }

  // Set up the figures of a class. setUp(root, svg, data) returns the function that draws one by its inputs, and
  // that returns what is to be said below it.
  function mount(name, setUp) {
    if (typeof document === "undefined") return; // the tests
    for (const root of document.querySelectorAll(`.${name}:not([data-ready])`)) {
      root.dataset.ready = "yes";
      const svg = root.querySelector("svg"), result = root.querySelector(".result");
      const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
      const draw = setUp(root, svg, data);
      let said;
      const update = () => {
        for (const input of root.querySelectorAll("input")) show(input, String(Number(input.value)));
        const text = draw();
        if (text !== said) result.innerHTML = said = text; // a screen reader says it again else
      };
      root.addEventListener("input", update);
      let width = 0;
      new ResizeObserver(() => {
        if (svg.clientWidth === width) return;
        width = svg.clientWidth;
        update();
      }).observe(svg);
    }
  }

  return { DESIRABLE, partition, short, pixels, marks, item, axes, plot, describe, drag, show, mount };
})();
if (typeof document === "undefined") module.exports = explorer;
