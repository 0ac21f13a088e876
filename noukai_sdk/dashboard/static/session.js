// The page of a session: the body of a call is loaded when the call is opened.
(() => {
  "use strict";

  // `toggle` does not bubble.
  document.addEventListener("toggle", (event) => {
    const call = event.target;
    if (!(call instanceof HTMLDetailsElement) || !call.open || !call.dataset.loads) return;
    const url = call.dataset.loads;
    delete call.dataset.loads;
    htmx.ajax("GET", url, { target: call.lastElementChild, swap: "innerHTML" });
  }, true);

  // The body of a call in progress is replaced every second: keep what is open in it.
  let kept = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const body = event.detail.target.closest?.(".call-body");
    kept = body ? { parent: body.parentElement, open: [...body.querySelectorAll("details")].map((each) => each.open) } : null;
  });
  document.addEventListener("htmx:load", (event) => {
    const body = event.detail.elt;
    if (kept === null || !body.matches?.(".call-body") || body.parentElement !== kept.parent) return;
    const all = body.querySelectorAll("details");
    kept.open.forEach((isOpen, at) => { if (all[at]) all[at].open = isOpen; });
    kept = null;
  });

  // The address names a call: open it.
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.querySelector("summary").focus();
  }
})();
