// The frontier of score against the FLOPs of training and of making n images; a slider sets n. It reads the JSON element next to it.
"use strict";
(() => {
  const source = document.getElementById("deployment-data");
  if (!source) return;
  const { make, shape, scientific, short, ticks, scale, digits } = KIT;
  const data = JSON.parse(source.textContent);
  const home = document.getElementById("deployment");
  const MARGIN = { left: 52, right: 14, top: 12, bottom: 44 };
  const STEPS = 200;                                   // of the slider; step 0 is no image
  const [lowest, highest] = data.powers;

  const imagesAt = (step) => (step === 0 ? 0 : Number((10 ** (lowest + (highest - lowest) * (step - 1) / (STEPS - 1))).toPrecision(2)));
  const costOf = (cell, images) => cell.train + images * cell.image;

  // The cells that no other beats: none of equal or lower cost is better, none of lower cost as good. As scaling/frontier.py has it.
  const frontier = (images) => {
    const order = data.cells.map((cell) => ({ cell, cost: costOf(cell, images) })).sort((a, b) => a.cost - b.cost || a.cell.score - b.cell.score);
    const on = new Set();
    let cheaper = Infinity;
    for (let i = 0; i < order.length;) {
      const same = order.filter((one, at) => at >= i && one.cost === order[i].cost);
      const best = same[0].cell.score;
      if (best < cheaper) for (const { cell } of same) if (cell.score === best) on.add(cell);
      cheaper = Math.min(cheaper, best);
      i += same.length;
    }
    return on;
  };

  function draw() {
    const images = imagesAt(Number(slider.value)), on = frontier(images);
    const width = Math.max(280, chart.clientWidth), height = Math.round(Math.min(400, Math.max(280, 0.55 * width)));
    said.textContent = `${images.toLocaleString("en")} images`;
    slider.setAttribute("aria-valuetext", said.textContent);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("height", height);
    plot.replaceChildren();
    const cost = (cell) => costOf(cell, images), bottom = height - MARGIN.bottom;
    const x = scale(data.cells.map(cost), true, MARGIN.left, width - MARGIN.right);
    const y = scale(data.cells.map((cell) => cell.score), true, bottom, MARGIN.top);
    for (const value of ticks(x.low, x.high, true, Math.floor(width / 95))) {
      plot.append(shape("path", { d: `M${x(value)},${MARGIN.top}V${bottom}`, stroke: "var(--line)" }),
        shape("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, scientific(value)));
    }
    for (const value of ticks(y.low, y.high, true, Math.floor(height / 45))) {
      plot.append(shape("path", { d: `M${MARGIN.left},${y(value)}H${width - MARGIN.right}`, stroke: "var(--line)" }),
        shape("text", { x: MARGIN.left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    const best = data.cells.filter((cell) => on.has(cell)).sort((a, b) => cost(a) - cost(b));
    const steps = best.map((cell, i) => (i ? `H${x(cost(cell))}V${y(cell.score)}` : `M${x(cost(cell))},${y(cell.score)}`)).join("");
    plot.append(shape("path", { d: `M${MARGIN.left},${MARGIN.top}V${bottom}H${width - MARGIN.right}`, stroke: "var(--muted)", fill: "none" }),
      shape("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle" }, "Training and making the images (FLOPs)"),
      shape("text", { transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, data.label),
      shape("path", { d: `${steps}H${width - MARGIN.right}`, stroke: "var(--ink)", fill: "none" }));
    for (const cell of data.cells) {
      const [left, top] = [x(cost(cell)), y(cell.score)];
      const mark = on.has(cell) ? shape("circle", { cx: left, cy: top, r: 4.5, fill: cell.color, class: "on" })
        : shape("path", { d: `M${left - 3},${top - 3}l6,6m0,-6l-6,6`, stroke: cell.color, class: "beaten" });
      mark.append(shape("title", {}, `${cell.name}: ${data.metric} ${digits(cell.score)}, ${scientific(cost(cell))} FLOPs`));
      plot.append(mark);
    }
    list.replaceChildren(...best.map((cell) => make("li", {},
      `${cell.name}: ${data.metric} ${digits(cell.score)}, ${scientific(cost(cell))} FLOPs, ${digits(100 * images * cell.image / cost(cell), 2)} % of them sampling`)));
    summary.textContent = `On the frontier: ${best.length} of ${data.cells.length} cells`;
  }

  const slider = make("input", { type: "range", name: "images", min: "0", max: String(STEPS), step: "1", value: "0", "aria-label": "images to be made" });
  const said = make("output", {});
  const chart = make("div", { class: "chart" });
  const plot = shape("svg", { class: "plot", role: "img", "aria-label": `${data.metric} against the FLOPs of training and sampling` });
  const summary = make("summary", {}), list = make("ol", {});
  chart.append(plot);
  const form = make("form", { autocomplete: "off" }, make("label", {}, "Images to be made", slider, said));
  for (const [variant, color] of Object.entries(data.variants)) {
    form.append(make("span", { class: "key" }, shape("svg", { width: 12, height: 12, "aria-hidden": "true" }, shape("circle", { cx: 6, cy: 6, r: 4.5, fill: color })), variant));
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  home.append(form, chart, make("p", { class: "remark" }, data.help), make("details", {}, summary, list));
  slider.addEventListener("input", draw);
  let width = 0;
  const fit = () => { if (chart.clientWidth !== width) { width = chart.clientWidth; draw(); } };
  fit();
  addEventListener("resize", () => requestAnimationFrame(fit));
})();
