// The partition explorer: the classes of a log's segments by the five settings of the partition.
(() => {
  "use strict";

  const { describe, mount, partition, plot, show } = explorer;

  mount("partition-explorer", (svg, data, { task, limit, ratio, top, bottom, kappa }) => {
    for (const name of Object.keys(data)) task.add(new Option(name, name));
    ratio.max = data[task.value].length - 1;
    return () => {
      const view = data[task.value][ratio.value];
      show(ratio, String(view.ratio));
      const [l, x, y, k] = [limit, top, bottom, kappa].map((input) => Number(input.value));
      const found = partition(view, { limit: l, top: x, bottom: y, kappa: k });
      plot(svg, view, found);
      return describe(view, found);
    };
  });
})();
