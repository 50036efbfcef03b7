// The cost limit on the log's plane of cost and return, with the policies that were trained at some limits.
(() => {
  "use strict";

  if (typeof document === "undefined") require("./explorer.js");
  const { DESIRABLE, describe, item, marks, members, mount, one, partition, plot } = explorer;

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
    return [costs, returns].map((values) => d3.mean(members(labels, DESIRABLE), (i) => values[i]));
  }

  // The runs by their limit: {limit, runs, cost, return, same}, with `same` where `limit` labels the log like it.
  function policies({ costs }, runs, limit) {
    const safe = (threshold) => costs.filter((cost) => cost <= threshold).length;
    return d3.groups(runs, (run) => run.limit).sort(([a], [b]) => a - b).map(([trained, of]) => ({
      limit: trained, runs: of, cost: d3.mean(of, (run) => run.cost), return: d3.mean(of, (run) => run.return),
      same: safe(trained) === safe(limit),
    }));
  }

  function sentence(groups, name) {
    const of = groups.find((group) => group.same);
    if (!of) return `no policy was trained with this limit, but with ${groups.map(name).join(", ")}`;
    const costs = of.runs.map((run) => run.cost), kept = costs.filter((cost) => cost <= of.limit).length;
    return (
      `policies trained with ${name(of)} (a circle for each seed): mean return <b>${of.return.toFixed(0)}</b>, mean cost ` +
      `<b>${of.cost.toFixed(1)}</b>; ${kept} of ${costs.length} keep the limit, their costs are ` +
      d3.extent(costs).map((cost) => cost.toFixed(1)).join(" to ")
    );
  }

  mount("limit-explorer", (svg, { view, trained, kappa }, { limit, top, bottom }) => {
    const most = d3.max(view.costs), name = (group) => (group.limit < most ? `the limit ${group.limit}` : "no limit");
    let scales;
    function move(x) {
      limit.value = scales.x.invert(x);
      limit.dispatchEvent(new Event("input", { bubbles: true }));
    }
    // A finger drags the line alone: elsewhere it scrolls the page, or taps to move the line there.
    const near = ([touch]) => Math.abs(d3.pointer(touch, svg.node())[0] - scales.x(limit.value)) < 24;
    const allowed = (event) => (event.touches ? near(event.touches) : !event.button && !event.ctrlKey);
    svg.call(d3.drag().container(svg.node()).filter(allowed).on("start drag", (event) => move(event.x)))
      .on("click", (event) => move(d3.pointer(event)[0]))
      .style("touch-action", null); // that of explorer.css in place of D3's
    return () => {
      const [l, x, y] = [limit, top, bottom].map((input) => Number(input.value));
      const found = partition(view, { limit: l, top: x, bottom: y, kappa });
      const groups = policies(view, trained.filter((run) => run.x === x && run.y === y), l);
      const centre = found.labels && average(view, found);
      scales = plot(svg, view, found);
      const at = (cost, value, ...r) => [scales.x(cost), scales.y(value), ...r];
      const steps = frontier(view), best = [scales.x.domain()[1], d3.max(view.returns)];
      const line = d3.line().curve(d3.curveStepAfter)([...steps, best].map((point) => at(...point)));
      const seeds = groups.filter((group) => group.same).flatMap((group) => group.runs);
      one(svg, "path", "path", { d: line });
      marks(svg, "end", seeds.map((run) => at(run.cost, run.return, 4)));
      marks(svg, "policy", groups.map((group) => at(group.cost, group.return, group.same ? 8 : 5)));
      one(svg, "g", "numbers").selectAll("text").data(groups).join("text").attr("class", "halo")
        .attr("x", (group) => scales.x(group.cost) + 10).attr("y", (group) => scales.y(group.return) + 15)
        .text((group) => name(group).replace("the limit ", ""));
      marks(svg, "average", centre ? [at(...centre, 8.5)] : []);
      const share = l > 0 ? `, ${Math.round(100 * centre?.[0] / l)} % of the limit` : "";
      const more = centre
        ? item("average", `mean of the desirable class: cost <b>${centre[0].toFixed(1)}</b>${share}; return ${centre[1].toFixed(0)}`)
        : "";
      return describe(view, found, more + item("policy", sentence(groups, name)));
    };
  });

  if (typeof document === "undefined") module.exports = { frontier, average, policies };
})();
