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

  // The address names a call: open it.
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.querySelector("summary").focus();
  }
})();
