// Notes when the state line of the cards shows numbers of a plan: `watchPlan(digest)` starts,
// `watched()` tells. Moments are those of the frame that showed the change, on performance.now's clock.
(() => {
  let seen = null;
  const look = () => {
    const line = document.querySelector(".state");
    if (!seen || !line || line.dataset.state !== "current" || !(Number(line.dataset.n) > 0)) return;
    if (seen.plan && line.dataset.plan !== seen.plan) return;
    const now = seen, complete = / all [\d,]+ /.test(line.textContent), n = Number(line.dataset.n);
    if (now.asked.first && (now.asked.final || !complete)) return;
    const first = !now.asked.first, final = complete && !now.asked.final;
    now.asked = { first: true, final: now.asked.final || complete };
    // the frame is on screen once the task after it runs
    requestAnimationFrame(() => setTimeout(() => {
      const at = performance.now();
      if (first) Object.assign(now, { first: at, n });
      if (final) Object.assign(now, { final: at, accuracy: document.querySelector(".card .value").textContent });
    }, 0));
  };
  const start = () => new MutationObserver(look).observe(document, {
    childList: true, subtree: true, characterData: true, attributes: true,
    attributeFilter: ["data-plan", "data-n", "data-state"],
  });
  start();
  window.watchPlan = (plan) => { seen = { plan, pressed: null, first: null, final: null, asked: {} }; look(); };
  window.watched = () => seen;
  addEventListener("keydown", (event) => {
    if (seen && seen.pressed === null) seen.pressed = performance.now();
  }, true);
})();
