"use strict";

/* Sliders: each shows one of the frames beside it, and remembers which over a reload. */
const remember = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* refused */ } };
const recall = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };

document.querySelectorAll(".frames").forEach((frames, place) => {
  const slider = frames.querySelector(":scope > .slider input");
  const output = frames.querySelector(":scope > .slider output");
  const all = [...frames.querySelectorAll(":scope > .frame")];
  const key = `${location.pathname}#${frames.dataset.key}${place}`;
  const show = () => {
    all.forEach((frame, index) => { frame.hidden = index !== Number(slider.value); });
    output.textContent = all[Number(slider.value)].dataset.label;
  };
  const before = recall(key);
  if (before !== null && Number(before) < all.length) slider.value = before;
  slider.addEventListener("input", () => { remember(key, slider.value); show(); });
  show();
});

/* Tips: what a title says, at once and on touch; without this script the browser shows the title. */
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
document.querySelectorAll("svg title").forEach((title) => {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
});
const point = (event) => {
  const of = event.target.closest("[data-tip]");
  tip.hidden = of === null;
  if (of === null) return;
  tip.textContent = of.dataset.tip;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 4))}px`;
  tip.style.top = `${event.clientY > height + 24 ? event.clientY - height - 12 : event.clientY + 16}px`;
};
document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

/* A page of a run that goes on reloads itself, but not under a hand that holds a slider. */
const refresh = Number(document.body.dataset.refreshS);
if (refresh > 0) {
  let held = false;
  document.addEventListener("pointerdown", () => { held = true; });
  document.addEventListener("pointerup", () => { held = false; });
  setInterval(() => { if (!held && !document.hidden) location.reload(); }, refresh * 1000);
}
