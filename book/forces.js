// The forces on a policy's mean in a space of two actions, by the loss of trac/score.py and tested against it.
(() => {
  "use strict";

  if (typeof document === "undefined") require("./explorer.js");
  const { axes, item, mark, marks, mount, one, short } = explorer;

  const LENGTH = 10; // a segment repeats one action in one state
  const STEPS = 400, RATE = 0.1;
  const EDGE = 1.3; // of the picture
  const sigma = (z) => 1 / (1 + Math.exp(-z));
  const along = (a, factor, b) => a.map((value, i) => value + factor * b[i]); // a + factor * b
  const square = (a) => a[0] ** 2 + a[1] ** 2;

  // One segment of each class, of weight 1. actions: {good, bad, reference}, each a point as `mean` is.
  // Returns {scale, good, bad, sum}: `scale` is α Σ γ^t, and of each class {score, pull, force}. The force is the
  // descent direction of the class's loss, 2 * scale * pull.
  function forces({ good, bad, reference }, mean, { alpha, eta, gamma }) {
    let discounts = 0;
    for (let t = 0; t < LENGTH; t++) discounts += gamma ** t;
    const scale = alpha * discounts;
    const of = (action, share) => {
      const toMean = along(action, -1, mean);
      const score = scale * (square(along(action, -1, reference)) - square(toMean));
      const pull = along([0, 0], share(score), toMean);
      return { score, pull, force: along([0, 0], 2 * scale, pull) };
    };
    const found = { scale, good: of(good, (z) => sigma(-z)), bad: of(bad, (z) => -eta * sigma(z)) };
    return { ...found, sum: along(found.good.force, 1, found.bad.force) };
  }

  // The means of gradient descent. Its steps are divided by 2 * scale, since an optimizer rescales gradients, too.
  function path(actions, mean, settings) {
    const means = [mean];
    for (let step = 0; step < STEPS; step++) {
      const { scale, sum } = forces(actions, means[step], settings);
      means.push(along(means[step], RATE / (2 * scale), sum));
    }
    return means;
  }

  // How far a point lies past the good action, on the line from the bad one, as a share of their distance.
  function past({ good, bad }, point) {
    const line = along(good, -1, bad), beyond = along(point, -1, good);
    return (beyond[0] * line[0] + beyond[1] * line[1]) / square(line);
  }

  // Outline of an arrow to the right, in pixels.
  function arrow(start, end) {
    const head = Math.min(8, (end - start) / 2), wing = 0.6 * head;
    return d3.line()([[start, 0], [end, 0], [end - head, -wing], [end, 0], [end - head, wing]]);
  }

  const digits = (value) => (Math.round(100 * value) / 100 || 0).toFixed(2).replace("-", "−");
  const point = (value) => `(${value.map(digits).join(", ")})`;
  const percent = (share) => `${String(Math.round(100 * share) || 0).replace("-", "−")} %`;

  function describe(actions, found, end, { eta }) {
    const outside = Math.max(...end.map(Math.abs)) > 1;
    const of = (name, part) =>
      `action <b>${point(actions[name])}</b>: score ${digits(part.score)}, so σ = ${digits(sigma(part.score))}; ` +
      `force ${point(part.force)}`;
    const rest = eta < 1 ? `η / (1 − η) is ${percent(eta / (1 - eta))}` : "η / (1 − η) has no value at 1";
    const apart = square(along(actions.good, -1, actions.bad)) > 1e-9;
    return (
      "<ul>" + item("desirable", `good ${of("good", found.good)}`) + item("undesirable", `bad ${of("bad", found.bad)}`) +
      item("sum", `sum of the forces ${point(found.sum)}`, arrow(-5, 5)) +
      item("neither", `reference policy ${point(actions.reference)}: half-way between the two, where both scores are 0`) +
      item(
        "end", `${STEPS} steps lead to <b>${point(end)}</b>` +
          (apart ? `, past the good action by ${percent(past(actions, end))} of the distance between the two ` +
            `(${rest})` : "") +
          (outside ? ". That is outside of the action space" : "")
      ) + "</ul>"
    );
  }

  mount("forces", (svg, _, controls) => {
    const below = svg.select("g"), above = svg.select(".arrows"), handles = svg.selectAll(".handle");
    const places = { policy: [0.3, -0.4], good: [0.35, 0.4], bad: [-0.35, -0.1] };
    let x, y; // scales
    const at = ([first, second], ...r) => [x(first), y(second), ...r];
    function place(node, ...to) {
      places[node.dataset.name] = to.map((value) => Math.max(-1, Math.min(1, Math.round(100 * value) / 100)));
      node.dispatchEvent(new Event("input", { bubbles: true }));
    }
    handles
      .datum(function () { return this.dataset.name; })
      .call(
        d3.drag().subject((_, name) => ({ x: x(places[name][0]), y: y(places[name][1]) }))
          .on("drag", function (event) { place(this, x.invert(event.x), y.invert(event.y)); })
      )
      .on("keydown", function (event, name) {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault(); // the page does not scroll
        place(this, ...along(places[name], event.shiftKey ? 0.01 : 0.05, step));
      })
      .select("path").attr("d", (name) => mark({ good: "desirable", bad: "undesirable" }[name] ?? name, 6.5));
    return () => {
      const [alpha, eta, gamma] = ["alpha", "eta", "gamma"].map((name) => Number(controls[name].value));
      const { policy, good, bad } = places, settings = { alpha, eta, gamma };
      const actions = { good, bad, reference: along(good, 1, bad).map((value) => value / 2) };
      const found = forces(actions, policy, settings), means = path(actions, policy, settings);
      const end = means[STEPS], inside = means.filter((mean) => Math.max(...mean.map(Math.abs)) <= EDGE);

      const width = svg.node().clientWidth, height = width + 2, edges = [-EDGE, EDGE]; // both units have one length
      svg.attr("height", height);
      ({ x, y } = axes(below, width, height, edges, edges, "first number of the action", "second number"));
      one(below, "rect", "neither", { x: x(-1), y: y(1), width: x(1) - x(-1), height: y(-1) - y(1) });
      one(below, "text", "space", { x: x(1) - 5, y: y(-1) - 6, "text-anchor": "end" }).text("action space");
      one(below, "path", "path", { d: d3.line()(inside.map((mean) => at(mean))) });
      const dots = inside.filter((_, step) => step % 10 === 0);
      marks(one(below, "g", "dots"), "policy", dots.map((mean) => at(mean, 1.8)));
      marks(below, "neither", [at(actions.reference)]);
      marks(below, "end", inside.length > STEPS ? [at(end, 7)] : []);
      const { good: { pull: toGood }, bad: { pull: fromBad } } = found, unit = x(1) - x(0);
      const pulls = Object.entries({ desirable: toGood, undesirable: fromBad, sum: along(toGood, 1, fromBad) });
      const long = pulls.filter(([, by]) => unit * Math.hypot(...by) >= 2); // pixels
      above.attr("transform", `translate(${at(policy)})`).selectAll("path").data(long).join("path")
        .attr("class", ([name]) => `arrow ${name}`)
        .attr("transform", ([, by]) => `rotate(${Math.atan2(-by[1], by[0]) * 180 / Math.PI})`)
        .attr("d", ([, by]) => arrow(0, unit * Math.hypot(...by)));
      handles
        .attr("transform", (name) => `translate(${at(places[name])})`)
        .attr("aria-valuenow", (name) => places[name][0])
        .attr("aria-valuetext", (name) => places[name].map(short).join(", "));
      return describe(actions, found, end, settings);
    };
  });

  if (typeof document === "undefined") module.exports = { forces, path, past };
})();
