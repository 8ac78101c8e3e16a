"use strict";
// Drawing on canvases: the axis of time, which all charts share, lines, and the colours of shares.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Okabe and Ito's colours, which colour-blind people can tell apart; the lighter ones first on dark
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a1f", "#777777"];
const ON_DARK = ["#56b4e9", "#e69f00", "#00c08b", "#e39ac4", "#f0e442", "#ff8a3d", "#6fa8ff", "#bbbbbb"];
const dark = matchMedia("(prefers-color-scheme: dark)");
function lineColour(i) { return (dark.matches ? ON_DARK : ON_LIGHT)[i % ON_LIGHT.length]; }
const LEFT = 60, RIGHT = 8;

function surface(canvas, height, width) {
  const scale = window.devicePixelRatio || 1;
  width = width || canvas.parentElement.clientWidth;
  canvas.style.height = `${height}px`;
  canvas.style.width = `${width}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return { pen, width, height };
}
function mix(low, high, part) {
  const [a, b] = [low, high].map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  return a.map((value, i) => Math.round(value + (b[i] - value) * part));
}
function colour(share) {
  // a power below 1 lets small shares be seen
  const part = Math.min(1, Math.abs(share)) ** 0.7;
  return mix(css("--zero"), css(share < 0 ? "--against" : "--for"), part);
}
function across(width) {
  const step = (width - LEFT - RIGHT) / length();
  return { step, x: (t) => LEFT + (t + 0.5) * step };
}
function shortly(number) {
  const small = number !== 0 && Math.abs(number) < 0.001;
  return (small ? number.toExponential(1) : String(Number(number.toPrecision(3)))).replaceAll("-", "−");
}
function ticks(count, room) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
  const step = steps.find((s) => (count / s) * 34 <= room) || 1000;
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}
function cursor(pen, width, height) {
  const { x } = across(width);
  pen.strokeStyle = css("--now");
  pen.lineWidth = 1.5;
  pen.beginPath();
  pen.moveTo(x(at.time), 0);
  pen.lineTo(x(at.time), height);
  pen.stroke();
}
function timeAxis(pen, width, height) {
  const { x } = across(width);
  pen.fillStyle = css("--faint");
  pen.textAlign = "center";
  for (const t of ticks(length(), width - LEFT - RIGHT)) pen.fillText(t, x(t), height - 7);
}
function chart(canvas, rows, { height = 110, from = null, to = null, stems = false, bands = [] }) {
  const { pen, width } = surface(canvas, height);
  const known = rows.flat().concat(bands.flat(2)).filter((value) => value !== null);
  let low = from ?? Math.min(0, ...known), high = to ?? Math.max(...known);
  if (!known.length) [low, high] = [0, 1];
  if (high - low < 1e-9) high = low + 1;
  const floor = height - 18, { x } = across(width);
  const y = (value) => 8 + ((high - value) / (high - low)) * (floor - 12);
  pen.fillStyle = css("--faint");
  pen.strokeStyle = css("--line");
  pen.textAlign = "right";
  for (const value of low < 0 && high > 0 ? [0, low, high] : [low, high]) {
    const free = value === 0 || !(low < 0 && high > 0) || Math.abs(y(value) - y(0)) > 13;
    if (free) pen.fillText(shortly(value), LEFT - 8, y(value));
    pen.beginPath();
    pen.moveTo(LEFT, y(value));
    pen.lineTo(width - RIGHT, y(value));
    pen.stroke();
  }
  timeAxis(pen, width, height);
  bands.forEach((band, i) => {
    pen.fillStyle = lineColour(i) + "33";
    pen.beginPath();
    band.forEach(([, top], t) => pen.lineTo(x(t), y(top)));
    [...band.entries()].reverse().forEach(([t, [bottom]]) => pen.lineTo(x(t), y(bottom)));
    pen.fill();
  });
  rows.forEach((row, i) => {
    pen.strokeStyle = pen.fillStyle = lineColour(i);
    pen.lineWidth = stems ? Math.max(1, Math.min(6, across(width).step - 1)) : 1.8;
    pen.beginPath();
    row.forEach((value, t) => {
      if (value === null) return;
      if (stems) pen.moveTo(x(t), y(0));
      if (row.length === 1) pen.fillRect(x(t) - 2, y(value) - 2, 4, 4);
      pen.lineTo(x(t), y(value));
    });
    pen.stroke();
  });
  cursor(pen, width, floor);
}
