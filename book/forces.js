// The forces on a policy's mean in a space of two actions, by the loss of trac/score.py and tested against it.
(() => {
  "use strict";

  if (typeof document === "undefined") require("./explorer.js");
  const { axes, drag, item, marks, mount, pixels, short } = explorer;

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

  function arrow(name, frame, from, by) {
    const [x, y] = [frame.x(from[0]), frame.y(from[1])];
    const [dx, dy] = [frame.x(from[0] + by[0]) - x, frame.y(from[1] + by[1]) - y];
    const length = Math.hypot(dx, dy), head = Math.min(8, length / 2) / length;
    if (length < 2) return "";
    const side = (sign) => pixels(head * (-dx + sign * 0.6 * dy), head * (-dy - sign * 0.6 * dx));
    const tip = pixels(x + dx, y + dy);
    return `<path class="arrow ${name}" d="M${pixels(x, y)}L${tip}l${side(1)}M${tip}l${side(-1)}"/>`;
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
      item("sum", `sum of the forces ${point(found.sum)}`) +
      item("neither", `reference policy ${point(actions.reference)}: half-way between the two, where both scores are 0`) +
      item(
        "end", `${STEPS} steps lead to <b>${point(end)}</b>` +
          (apart ? `, past the good action by ${percent(past(actions, end))} of the distance between the two ` +
            `(${rest})` : "") +
          (outside ? ". That is outside of the action space" : "")
      ) + "</ul>"
    );
  }

  mount("forces", (root, svg) => {
    const [below, above] = svg.querySelectorAll("g[aria-hidden]");
    const handles = Object.fromEntries([...svg.querySelectorAll(".handle")].map((node) => [node.dataset.name, node]));
    const places = { policy: [0.3, -0.4], good: [0.35, 0.4], bad: [-0.35, -0.1] };
    let frame;
    for (const [name, node] of Object.entries(handles)) {
      const place = (...to) => {
        places[name] = to.map((value) => Math.max(-1, Math.min(1, Math.round(100 * value) / 100)));
        node.dispatchEvent(new Event("input", { bubbles: true }));
      };
      drag(svg, node, (x, y) => place(frame.valueX(x), frame.valueY(y)));
      node.addEventListener("touchstart", (event) => event.preventDefault()); // else the page scrolls
      node.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
        if (!step) return;
        event.preventDefault(); // the page does not scroll
        place(...along(places[name], event.shiftKey ? 0.01 : 0.05, step));
      });
    }
    return () => {
      const settings = Object.fromEntries(
        ["alpha", "eta", "gamma"].map((name) => [name, Number(root.querySelector(`#forces-${name}`).value)])
      );
      const { policy, good, bad } = places;
      const actions = { good, bad, reference: along(good, 1, bad).map((value) => value / 2) };
      const found = forces(actions, policy, settings), means = path(actions, policy, settings);
      const end = means[STEPS];
      frame = axes(svg, svg.clientWidth - 6, [-EDGE, EDGE], [-EDGE, EDGE], "first number of the action", "second number");
      const { x, y } = frame;
      const at = ([first, second], ...r) => pixels(x(first), y(second), ...r);
      const inside = means.filter((mean) => Math.max(...mean.map(Math.abs)) <= EDGE);
      const dots = inside.filter((_, step) => step % 10 === 0).map((mean) => at(mean, 1.8));
      below.innerHTML =
        frame.markup +
        `<path class="neither" d="M${x(-1)} ${y(-1)}H${x(1)}V${y(1)}H${x(-1)}z"/>` +
        `<text x="${x(1) - 5}" y="${y(-1) - 6}" text-anchor="end">action space</text>` +
        `<path class="path" d="M${inside.map((mean) => pixels(x(mean[0]), y(mean[1]))).join("L")}"/>` +
        `<g class="dots">${marks("policy", dots)}</g>` +
        marks("neither", [at(actions.reference)]) +
        (inside.length > STEPS ? marks("end", [at(end, 7)]) : "");
      above.innerHTML =
        arrow("desirable", frame, policy, found.good.pull) + arrow("undesirable", frame, policy, found.bad.pull) +
        arrow("sum", frame, policy, along(found.good.pull, 1, found.bad.pull));
      for (const [name, node] of Object.entries(handles)) {
        node.setAttribute("transform", `translate(${pixels(...at(places[name]))})`);
        node.setAttribute("aria-valuenow", places[name][0]);
        node.setAttribute("aria-valuetext", places[name].map(short).join(", "));
      }
      return describe(actions, found, end, settings);
    };
  });

  if (typeof document === "undefined") module.exports = { forces, path, past };
})();
