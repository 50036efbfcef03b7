// The partition explorer of the chapter on partitions. `partition` repeats the rules of
// trac/partition.py to the last bit and is tested against them; the rest draws what it returns.
(() => {
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

  // Round numbers, about `count` of them, that cover low to high.
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  const MARKERS = {
    desirable: (x, y, r) => `<circle cx="${x}" cy="${y}" r="${r}"/>`,
    undesirable: (x, y, r) => `<path d="M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}"/>`,
    neither: (x, y) => `<path d="M${x - 2.5} ${y - 2.5}h5v5h-5z"/>`,
  };
  const NAMES = { [DESIRABLE]: "desirable", [UNDESIRABLE]: "undesirable", [NEITHER]: "neither" };

  function plot(svg, view, { threshold, labels, weights }) {
    const width = svg.clientWidth, height = Math.max(260, Math.min(420, 0.6 * width));
    const left = 52, bottom = 44, above = 18;
    const xMax = 1.02 * Math.max(...view.costs, threshold, 1);
    const yMin = Math.min(...view.returns, 0), yMax = 1.02 * Math.max(...view.returns);
    const x = (cost) => left + 8 + ((cost + 0.5) / (xMax + 0.5)) * (width - left - 16);
    const y = (value) => height - bottom - ((value - yMin) / (yMax - yMin)) * (height - bottom - above);

    const groups = { neither: "", undesirable: "", desirable: "" };
    view.costs.forEach((cost, i) => {
      const name = NAMES[labels ? labels[i] : NEITHER], weight = weights ? weights[i] : 0;
      // Costs are whole numbers: spread by up to half of one to the left, points do not hide each other.
      const at = [x(cost - 0.5 * ((i * 0.618) % 1)), y(view.returns[i]), 1 + 3 * weight];
      groups[name] += MARKERS[name](...at.map((number) => Math.round(10 * number) / 10));
    });
    const points = Object.entries(groups).map(([name, marks]) => `<g class="${name}">${marks}</g>`).join("");

    const xTicks = ticks(0, xMax, width < 450 ? 5 : 9).map(
      (t) => `<path class="axis" d="M${x(t)} ${height - bottom}v5"/>` +
        `<text x="${x(t)}" y="${height - bottom + 18}" text-anchor="middle">${t}</text>`
    );
    const yTicks = ticks(yMin, yMax, 6).map(
      (t) => `<path class="axis" d="M${left} ${y(t)}h-5"/>` +
        `<text x="${left - 8}" y="${y(t) + 4}" text-anchor="end">${t}</text>`
    );
    const line = x(threshold), end = line > width - 90;
    svg.setAttribute("height", height);
    svg.innerHTML =
      points +
      `<path class="axis" d="M${left} ${above}V${height - bottom}H${width}"/>` + xTicks.join("") + yTicks.join("") +
      `<path class="limit" d="M${line} ${above}V${height - bottom}"/>` +
      `<text x="${line + (end ? -5 : 5)}" y="${above - 5}" text-anchor="${end ? "end" : "start"}">` +
      `limit ${short(threshold)}</text>` +
      `<text x="${(left + width) / 2}" y="${height - 6}" text-anchor="middle">cost of ${view.length} steps</text>` +
      `<text x="0" y="${above - 5}">return</text>`;
  }

  function describe(view, { threshold, error, labels, weights }) {
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
      return `<li><svg aria-hidden="true"><g class="${name}">${MARKERS[name](7, 7, 4)}</g></svg>${text}</li>`;
    });
    return `${head}<ul>${items.join("")}</ul>`;
  }

  function mount(root) {
    root.dataset.ready = "yes";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const [task, limit, ratio, top, bottom, kappa] = ["task", "limit", "ratio", "top", "bottom", "kappa"].map((name) =>
      root.querySelector(`#explorer-${name}`)
    );
    const svg = root.querySelector("svg"), result = root.querySelector(".result");
    for (const name of Object.keys(data)) task.add(new Option(name, name));
    ratio.max = data[task.value].length - 1;

    function update() {
      const view = data[task.value][ratio.value];
      for (const input of root.querySelectorAll("input")) {
        const text = input === ratio ? String(view.ratio) : String(Number(input.value));
        input.previousElementSibling.textContent = text;
        input.setAttribute("aria-valuetext", text);
      }
      const [l, x, y, k] = [limit, top, bottom, kappa].map((input) => Number(input.value));
      const found = partition(view, { limit: l, top: x, bottom: y, kappa: k });
      plot(svg, view, found);
      result.innerHTML = describe(view, found);
    }

    root.addEventListener("input", update);
    let width = 0;
    new ResizeObserver(() => {
      if (svg.clientWidth === width) return;
      width = svg.clientWidth;
      update();
    }).observe(svg);
  }

  if (typeof document !== "undefined") {
    document.querySelectorAll(".partition-explorer:not([data-ready])").forEach(mount);
  } else {
    module.exports = { partition };
  }
})();
