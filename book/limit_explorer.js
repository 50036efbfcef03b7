// The cost limit on the log's plane of cost and return, with the policies that were trained at some limits.
(() => {
  "use strict";

  if (typeof document === "undefined") require("./explorer.js");
  const { DESIRABLE, describe, drag, item, marks, mount, partition, pixels, plot } = explorer;

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // The best return that each cost buys: [cost, return] wherever it rises.
  function frontier({ returns, costs }) {
    let best = -Infinity;
    return [...costs.keys()]
      .sort((a, b) => costs[a] - costs[b] || returns[b] - returns[a])
      .filter((i) => returns[i] > best && ((best = returns[i]), true))
      .map((i) => [costs[i], returns[i]]);
  }

  // Mean cost and mean return of the desirable class.
  function average({ returns, costs }, { labels }) {
    const members = [...labels.keys()].filter((i) => labels[i] === DESIRABLE);
    return [costs, returns].map((values) => mean(members.map((i) => values[i])));
  }

  // The runs by their limit: {limit, runs, cost, return, same}, with `same` where `limit` labels the log like it.
  function policies({ costs }, runs, limit) {
    const safe = (threshold) => costs.filter((cost) => cost <= threshold).length;
    return [...new Set(runs.map((run) => run.limit))].sort((a, b) => a - b).map((trained) => {
      const of = runs.filter((run) => run.limit === trained);
      return {
        limit: trained, runs: of, cost: mean(of.map((run) => run.cost)), return: mean(of.map((run) => run.return)),
        same: safe(trained) === safe(limit),
      };
    });
  }

  function sentence(groups, name) {
    const of = groups.find((group) => group.same);
    if (!of) return `no policy was trained with this limit, but with ${groups.map(name).join(", ")}`;
    const costs = of.runs.map((run) => run.cost), kept = costs.filter((cost) => cost <= of.limit).length;
    return (
      `policies trained with ${name(of)} (a circle for each seed): mean return <b>${of.return.toFixed(0)}</b>, mean cost ` +
      `<b>${of.cost.toFixed(1)}</b>; ${kept} of ${costs.length} keep the limit, their costs are ` +
      `${Math.min(...costs).toFixed(1)} to ${Math.max(...costs).toFixed(1)}`
    );
  }

  mount("limit-explorer", (root, svg, { view, trained, kappa }) => {
    const [limit, top, bottom] = ["limit", "top", "bottom"].map((name) => root.querySelector(`#limit-${name}`));
    const most = Math.max(...view.costs), name = (group) => (group.limit < most ? `the limit ${group.limit}` : "no limit");
    let frame;
    drag(svg, svg, (x) => {
      limit.value = frame.valueX(x);
      limit.dispatchEvent(new Event("input", { bubbles: true }));
    });
    return () => {
      const [l, x, y] = [limit, top, bottom].map((input) => Number(input.value));
      const found = partition(view, { limit: l, top: x, bottom: y, kappa });
      const groups = policies(view, trained.filter((run) => run.x === x && run.y === y), l);
      const centre = found.labels && average(view, found);
      frame = plot(svg, view, found, ({ x: xOf, y: yOf, width }) => {
        const at = (cost, value, ...r) => pixels(xOf(cost), yOf(value), ...r);
        const steps = frontier(view).map(([cost, value]) => `H${pixels(xOf(cost))}V${pixels(yOf(value))}`);
        const numbers = groups.map((group) => {
          const [left, height] = at(group.cost, group.return);
          return `<text class="halo" x="${left + 10}" y="${height + 15}">${name(group).replace("the limit ", "")}</text>`;
        });
        const seeds = groups.filter((group) => group.same).flatMap((group) => group.runs);
        return (
          `<path class="path" d="M${at(...frontier(view)[0])}${steps.join("")}H${width}"/>` +
          marks("end", seeds.map((run) => at(run.cost, run.return, 4))) +
          marks("policy", groups.map((group) => at(group.cost, group.return, group.same ? 9 : 6))) + numbers.join("") +
          (centre ? marks("average", [at(...centre, 10)]) : "")
        );
      });
      const share = l > 0 ? `, ${Math.round(100 * centre?.[0] / l)} % of the limit` : "";
      const more = centre
        ? item("average", `mean of the desirable class: cost <b>${centre[0].toFixed(1)}</b>${share}; return ${centre[1].toFixed(0)}`)
        : "";
      return describe(view, found, more + item("policy", sentence(groups, name)));
    };
  });

  if (typeof document === "undefined") module.exports = { frontier, average, policies };
})();
