// What the page's charts share: elements, numbers as text, ticks and scales.
"use strict";
const KIT = (() => {
  const SVG = Object.assign(document.createElement("div"), { innerHTML: "<svg/>" }).firstChild.namespaceURI;

  const make = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const shape = (name, attributes = {}, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  // Numbers as text.
  const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const power = (exponent) => (exponent < 0 ? "⁻" : "") + [...String(Math.abs(exponent))].map((digit) => SUPER[digit]).join("");
  const digits = (value, count = 3) => String(Number(value.toPrecision(count)));
  const scientific = (value) => {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return Number(mantissa) === 1 ? `10${power(Number(exponent))}` : `${Number(mantissa)}×10${power(Number(exponent))}`;
  };
  const short = (value) => {
    for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (value >= size) return `${digits(value / size)} ${letter}`;
    return digits(value);
  };
  const ticks = (low, high, log, room) => {
    if (!log) {
      const rough = (high - low) / Math.max(2, room), base = 10 ** Math.floor(Math.log10(rough));
      const step = base * [1, 2, 5, 10].find((factor) => factor * base >= rough);
      const found = [];
      for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(Number((n * step).toPrecision(12)));
      return found;
    }
    let found = [];
    for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8]]) {
      found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
        for (const step of steps) found.push(Number((step * 10 ** e).toPrecision(6)));
      }
      found = found.filter((value) => value >= low && value <= high);
      if (found.length >= 3) break;
    }
    return found.length >= 2 ? found.filter((_, i) => i % Math.ceil(found.length / room) === 0) : ticks(low, high, false, room);
  };
  const scale = (values, log, from, to) => {
    let low = Math.min(...values), high = Math.max(...values);
    const bend = log ? Math.log : (value) => value;
    if (low === high) [low, high] = log ? [low / 1.2, high * 1.2] : [low - Math.abs(low || 1) / 5, high + Math.abs(high || 1) / 5];
    const margin = 0.04 * (bend(high) - bend(low));
    const start = bend(low) - margin, end = bend(high) + margin;
    const place = (value) => from + (bend(value) - start) / (end - start) * (to - from);
    return Object.assign(place, { low: log ? Math.exp(start) : start, high: log ? Math.exp(end) : end, log });
  };

  return { make, shape, digits, scientific, short, ticks, scale };
})();
