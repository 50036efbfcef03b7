// Policies by the labels that taught them: what was desirable, and an episode of the policy that came of it.
(() => {
  "use strict";

  if (typeof document === "undefined") require("./explorer.js");
  const { item, mount, one, show } = explorer;

  const SECONDS = 8; // that an episode takes
  const MARGIN = 1; // around what happens [m]

  // An episode up to a step: its points [m], the costly pieces of its path, and the cost so far. Step t leads from
  // point t to point t + 1.
  function upTo({ path, costs }, step) {
    const points = [];
    for (let t = 0; t <= step; t++) points.push(path.slice(2 * t, 2 * t + 2));
    const costly = [];
    for (let t = 0; t < step; t++) {
      if (costs[t] === "0") continue;
      if (t > 0 && costs[t - 1] !== "0") costly[costly.length - 1].push(points[t + 1]);
      else costly.push([points[t], points[t + 1]]);
    }
    return { points, costly, cost: [...costs.slice(0, step)].filter((cost) => cost !== "0").length };
  }

  function describe({ episodes, steps }, run) {
    const share = `${Math.round(100 * run.reckless)} %`, kept = run.mean_cost <= run.limit;
    const cost = upTo(run, steps).cost;
    return (
      "<ul>" +
      item(
        "desirable", `labels: <b>${run.desirable.toLocaleString("en")}</b> segments of ${steps * run.ratio} steps are ` +
          `desirable, ${share} of them from episodes over the limit; ${run.start} of ${episodes} episodes begin with one`
      ) +
      item("policy", `this episode: reward <b>${run.reward.toFixed(2)}</b>, cost <b>${cost}</b>, limit ${run.limit}`) +
      item(
        "average", `mean of 20 episodes of this policy: reward <b>${run.mean_reward.toFixed(2)}</b>, cost ` +
          `<b>${run.mean_cost.toFixed(1)}</b>, ${kept ? "safe" : "over the limit"}`
      ) + "</ul>"
    );
  }

  mount("labels-explorer", (svg, data, { ratio, x: share, limit, step, button }) => {
    const last = data.steps, calm = matchMedia("(prefers-reduced-motion: reduce)");
    const reach = MARGIN + Math.max(...data.runs.flatMap((run) => run.path.map(Math.abs)));
    const chosen = () =>
      data.runs.find((run) => [[run.ratio, ratio], [run.x, share], [run.limit, limit]].every(([a, b]) => a === Number(b.value)));

    function picture() {
      const run = chosen(), { points, costly, cost } = upTo(run, Number(step.value));
      const width = svg.node().clientWidth, size = Math.min(width, 440), left = (width - size) / 2;
      const x = d3.scaleLinear([-reach, reach], [left, left + size]), y = d3.scaleLinear([-reach, reach], [size, 0]);
      const bar = d3.scaleLinear([0, Math.max(run.limit, upTo(run, last).cost)], [0, size]);
      const line = d3.line(([east]) => x(east), ([, north]) => y(north)), over = cost > run.limit;
      const lines = (name, pieces) => one(svg, "g", name).selectAll("path").data(pieces).join("path").attr("d", line);
      const [east, north] = points[points.length - 1], tick = left + bar(run.limit);
      svg.attr("height", size + 44);
      one(svg, "circle", "ground", { cx: x(0), cy: y(0), r: x(data.radius) - x(0) });
      lines("limit", [-data.x_lim, data.x_lim].map((wall) => [[wall, -reach], [wall, reach]]));
      lines("trace", [points]);
      lines("costly", costly);
      one(svg, "circle", "policy", { cx: x(east), cy: y(north), r: 7 });
      one(svg, "text", "cost", { x: left, y: size + 16 })
        .text(`cost ${cost}, limit ${run.limit}${over ? ": over the limit" : ""}`);
      one(svg, "rect", "bar", { x: left, y: size + 24, width: bar(cost), height: 10 }).classed("over", over);
      one(svg, "line", "end", { x1: tick, x2: tick, y1: size + 20, y2: size + 38 });
      show(step, `${step.value} of ${last}`);
    }

    let playing = false;
    function play(on) {
      playing = on;
      button.textContent = on ? "Pause" : "Play";
      if (!on) return;
      if (Number(step.value) === last) step.value = 0;
      const begin = performance.now() - (1000 * SECONDS * step.value) / last;
      requestAnimationFrame(function next(now) {
        if (!playing) return;
        step.value = Math.max(0, Math.min(last, Math.floor((last * (now - begin)) / (1000 * SECONDS))));
        picture();
        if (Number(step.value) === last) play(false);
        else requestAnimationFrame(next);
      });
    }

    button.addEventListener("click", () => play(!playing));
    step.addEventListener("input", () => play(false));
    for (const select of [ratio, share, limit]) {
      select.addEventListener("input", () => {
        play(false);
        step.value = last;
        if (!calm.matches) play(true);
      });
    }
    return () => {
      picture();
      return describe(data, chosen());
    };
  });

  if (typeof document === "undefined") module.exports = { upTo };
})();
