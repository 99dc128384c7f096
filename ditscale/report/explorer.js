// The explorer: score against cost, one curve per run. It reads the JSON element next to it, and draws and redraws one SVG.
"use strict";
(() => {
  const source = document.getElementById("explorer-data");
  if (!source) return;
  const { make, shape, digits, scientific, short, ticks, scale } = KIT;
  const data = JSON.parse(source.textContent);
  const home = document.getElementById("explorer");
  const still = document.getElementById("static-figure");
  const COSTS = {
    flops: { column: 1, name: "Training FLOPs", label: "Training compute (FLOPs)", power: true },
    hours: { column: 2, name: "Accelerator-hours", label: "Training time (accelerator-hours)" },
    money: { column: 2, name: "Money", label: "Money for training (price × accelerator-hours)" },
    images: { column: 0, name: "Images seen", label: "Images seen" },
  };
  const KINDS = ["variant", "block", "model", "seed"];
  const SCORE = 3;
  const MARGIN = { left: 52, right: 14, top: 12, bottom: 44 };
  const state = { cost: "flops", price: data.price, logX: true, logY: true, hidden: Object.fromEntries(KINDS.map((kind) => [kind, new Set()])) };
  let drawn = [];                                      // visible points: {x, y, run, i, group}
  let chosen = -1;

  const MARKERS = {
    o: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    s: (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    "^": (x, y, r) => `M${x},${y - 1.2 * r}L${x + 1.1 * r},${y + r}H${x - 1.1 * r}z`,
    D: (x, y, r) => `M${x},${y - 1.3 * r}L${x + 1.3 * r},${y}L${x},${y + 1.3 * r}L${x - 1.3 * r},${y}z`,
  };
  const marker = (look, x, y, r, full) => shape("path", {
    d: (MARKERS[look.marker] || MARKERS.o)(x, y, r), fill: full ? look.color : "var(--paper)", stroke: look.color,
  });

  const amount = (value, cost) => {
    const extreme = value !== 0 && (value < 1e-4 || value >= 1e15);
    return COSTS[cost].power || extreme ? scientific(value) : short(value);
  };

  // A run's position on the cost axis; null if unknown.
  const costOf = (point) => {
    const value = point[COSTS[state.cost].column];
    if (value === null || state.cost !== "money") return value;
    return state.price > 0 ? value * state.price : null;
  };

  const visible = () => data.runs.filter((run) => KINDS.every((kind) => !state.hidden[kind].has(String(run[kind]))));

  function draw() {
    const width = Math.max(280, chart.clientWidth), height = Math.round(Math.min(460, Math.max(300, 0.62 * width)));
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.setAttribute("height", height);
    plot.replaceChildren();
    [drawn, chosen] = [[], -1];
    hide();
    const usable = (point) => { const cost = costOf(point); return cost !== null && (cost > 0 || !state.logX); };
    const curves = visible().map((run) => ({ run, points: run.points.filter(usable) })).filter((curve) => curve.points.length);
    const absent = visible().length - curves.length;
    note.textContent = absent ? `${absent} of ${visible().length} runs have no such cost on record, and are not drawn.` : "";
    if (!curves.length) {
      const why = state.cost === "money" && !(state.price > 0) ? "Give the price of one accelerator-hour." : "Nothing is selected.";
      plot.append(shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "empty" }, why));
      return;
    }
    const all = curves.flatMap((curve) => curve.points);
    const x = scale(all.map(costOf), state.logX, MARGIN.left, width - MARGIN.right);
    const scores = all.map((point) => point[SCORE]);
    const y = scale(data.floor ? [...scores, data.floor] : scores, state.logY, height - MARGIN.bottom, MARGIN.top);
    axes(x, y, width, height);
    for (const { run, points } of curves) curve(run, points, x, y);
  }

  function axes(x, y, width, height) {
    const bottom = height - MARGIN.bottom;
    for (const value of ticks(x.low, x.high, x.log, Math.floor(width / 95))) {
      plot.append(shape("path", { d: `M${x(value)},${MARGIN.top}V${bottom}`, stroke: "var(--line)" }),
        shape("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, amount(value, state.cost)));
    }
    for (const value of ticks(y.low, y.high, y.log, Math.floor(height / 45))) {
      plot.append(shape("path", { d: `M${MARGIN.left},${y(value)}H${width - MARGIN.right}`, stroke: "var(--line)" }),
        shape("text", { x: MARGIN.left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    if (data.floor) {
      const across = `M${MARGIN.left},${y(data.floor)}H${width - MARGIN.right}`;
      plot.append(shape("path", { d: across, stroke: "var(--ink)", "stroke-dasharray": "1.5 3" }),
        shape("text", { x: width - MARGIN.right, y: y(data.floor) - 5, "text-anchor": "end" }, "floor"));
    }
    plot.append(shape("path", { d: `M${MARGIN.left},${MARGIN.top}V${bottom}H${width - MARGIN.right}`, stroke: "var(--muted)", fill: "none" }),
      shape("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 6, "text-anchor": "middle", class: "x-label" }, COSTS[state.cost].label),
      shape("text", { transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, data.label));
  }

  function curve(run, points, x, y) {
    const at = points.map((point) => [x(costOf(point)), y(point[SCORE])]);
    const group = shape("g", { class: "run", "data-run": run.id });
    group.append(shape("path", {
      d: "M" + at.map((place) => place.map((value) => value.toFixed(1)).join(",")).join("L"), fill: "none", stroke: run.look.color,
      "stroke-width": run.look.width,
    }));
    at.forEach(([left, top], i) => {
      const last = run.done && i === points.length - 1;
      group.append(marker(run.look, left, top, last ? 4.2 : 2.8, last));
      drawn.push({ x: left, y: top, run, point: points[i], group });
    });
    plot.append(group);
  }

  // The selected run: pointer, tap and keys.
  function hide() {
    tip.hidden = true;
    plot.classList.remove("dimmed");
    for (const group of plot.querySelectorAll(".chosen")) group.classList.remove("chosen");
  }
  function show(index) {
    hide();
    chosen = index;
    const { x, y, run, point, group } = drawn[index];
    const [images, flops, hours, score] = point;
    const spent = hours === null ? "accelerator-hours unknown" : `${digits(hours)} accelerator-hours`;
    const money = hours !== null && state.price > 0 ? `, money ${digits(hours * state.price)}` : "";
    const title = make("strong", {}, `${data.metric} ${digits(score)}`);
    tip.replaceChildren(title, make("br"), `${run.model}, ${run.variant}, seed ${run.seed ?? "unknown"}`, make("br"),
      `${images.toLocaleString("en")} images, ${scientific(flops)} FLOPs, ${spent}${money}`, make("br"), run.id);
    plot.classList.add("dimmed");
    group.classList.add("chosen");
    tip.hidden = false;
    const right = chart.clientWidth - tip.offsetWidth, above = y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(0, Math.min(right, x - tip.offsetWidth / 2))}px`;
    tip.style.top = `${above >= 0 ? above : y + 14}px`;
  }
  function nearest(event) {
    const box = plot.getBoundingClientRect(), left = event.clientX - box.left, top = event.clientY - box.top;
    let [best, far] = [-1, 28];
    drawn.forEach((one, i) => { const away = Math.hypot(one.x - left, one.y - top); if (away < far) [best, far] = [i, away]; });
    if (best < 0) hide(); else if (best !== chosen || tip.hidden) show(best);
  }
  function key(event) {
    if (event.key === "Escape") return hide();
    if (!drawn.length || !/^Arrow/.test(event.key)) return;
    event.preventDefault();
    const step = /Right|Down/.test(event.key) ? 1 : -1;
    if (chosen < 0 || tip.hidden) return show(Math.max(0, chosen));
    if (/Left|Right/.test(event.key)) return show((chosen + step + drawn.length) % drawn.length);
    const runs = [...new Set(drawn.map((one) => one.run))];
    const next = runs[(runs.indexOf(drawn[chosen].run) + step + runs.length) % runs.length];
    show(drawn.findIndex((one) => one.run === next));
  }

  // The controls.
  const swatch = (look, lined) => {
    const image = shape("svg", { width: 26, height: 12, "aria-hidden": "true" },
      shape("path", { d: "M1,6H25", stroke: look.color, fill: "none", "stroke-width": lined ? look.width : 4 }));
    if (lined) image.append(marker(look, 13, 6, 3, true));
    return image;
  };
  function boxes(kind, title) {
    const values = [...new Set(data.runs.map((run) => String(run[kind])))];
    if (values.length < 2) return "";
    if (kind === "seed") values.sort((a, b) => a - b);
    if (kind === "variant") values.sort((a, b) => data.variants.indexOf(a) - data.variants.indexOf(b));
    const colored = ["variant", "block"].find((name) => new Set(data.runs.map((run) => run[name])).size > 1);
    const field = make("fieldset", {}, make("legend", {}, title));
    for (const value of values) {
      const box = make("input", { type: "checkbox", "data-kind": kind, value, checked: "" });
      box.addEventListener("change", () => { state.hidden[kind][box.checked ? "delete" : "add"](value); draw(); });
      const { look } = data.runs.find((run) => String(run[kind]) === value);
      const sign = kind === colored ? [swatch(look, false)] : [];
      if (kind === "model") sign.push(swatch(colored ? { ...look, color: "var(--muted)" } : look, true));
      field.append(make("label", {}, box, ...sign, kind === "model" ? value.replace(/^DiT-/, "") : value));
    }
    return field;
  }
  function controls() {
    const price = make("input", { type: "number", min: "0", step: "any", name: "price", placeholder: "price", value: data.price ?? "" });
    const priced = make("label", { hidden: "" }, "per accelerator-hour", price);
    const select = make("select", { name: "cost" });
    for (const [name, { column, name: words }] of Object.entries(COSTS)) {
      const option = make("option", { value: name }, words);
      option.disabled = !data.runs.some((run) => run.points.some((point) => point[column] !== null));
      select.append(option);
    }
    select.addEventListener("change", () => { state.cost = select.value; priced.hidden = state.cost !== "money"; draw(); });
    price.addEventListener("input", () => { state.price = Number(price.value); draw(); });
    const log = (name, words) => {
      const box = make("input", { type: "checkbox", name, checked: "" });
      box.addEventListener("change", () => { state[name] = box.checked; draw(); });
      return make("label", {}, box, words);
    };
    const axis = make("fieldset", {}, make("legend", {}, "Cost"), select, priced, log("logX", "log cost"), log("logY", "log score"));
    const form = make("form", { autocomplete: "off" }, axis, boxes("variant", "Variants"), boxes("block", "Blocks"), boxes("model", "Models"), boxes("seed", "Seeds"));
    form.addEventListener("submit", (event) => event.preventDefault());
    return form;
  }

  const plot = shape("svg", { class: "plot", tabindex: "0", role: "img", "aria-label": `${data.metric} against cost, one curve per run; arrow keys go through its points` });
  const tip = make("div", { class: "tip", role: "status", hidden: "" });
  const note = make("p", { class: "remark", role: "status" });
  const chart = make("div", { class: "chart" }, plot, tip);
  home.append(controls(), chart, note, make("p", { class: "remark" }, data.help));
  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("keydown", key);
  plot.addEventListener("blur", hide);
  let width = 0;
  const fit = () => { if (chart.clientWidth !== width) { width = chart.clientWidth; draw(); } };
  fit();
  addEventListener("resize", () => requestAnimationFrame(fit));
  still.open = false;
  addEventListener("beforeprint", () => { still.open = true; });
  addEventListener("afterprint", () => { still.open = false; });
})();
