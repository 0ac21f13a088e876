// The page of a session: the body of a call is loaded when the call is opened.
(() => {
  "use strict";

  // `toggle` does not bubble.
  document.addEventListener("toggle", (event) => {
    const call = event.target;
    if (!(call instanceof HTMLDetailsElement) || !call.open || !call.dataset.loads) return;
    const url = call.dataset.loads;
    delete call.dataset.loads;
    // That it failed is said below.
    htmx.ajax("GET", url, { target: call.lastElementChild, swap: "innerHTML" }).catch(() => {});
  }, true);

  // The session may be gone, or the service: say so, and load the call when it is opened again.
  for (const type of ["htmx:responseError", "htmx:sendError"]) {
    document.addEventListener(type, (event) => {
      const { target, requestConfig, xhr } = event.detail;
      const call = target?.closest?.("#calls details");
      if (!call || target !== call.lastElementChild) return;
      call.dataset.loads = requestConfig.path;
      const problem = document.createElement("p");
      problem.className = "problem";
      problem.setAttribute("role", "alert");
      problem.textContent = {
        0: "The service cannot be reached. Open the call again when it runs.",
        404: "This call is gone: its session was deleted, or is past its retention.",
        410: "This call is gone: its session was deleted, or is past its retention.",
      }[xhr?.status ?? 0] ?? `The call cannot be loaded: the service responded with status ${xhr.status}.`;
      target.querySelector(".problem")?.remove();
      target.prepend(problem);
    });
  }

  // The body of a call in progress is replaced every second: keep what is open in it. At once, because whatever a
  // person opens in the new body must stay open too.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const body = event.detail.target.closest?.(".call-body");
    if (!body) return;
    const parent = body.parentElement;
    const open = [...body.querySelectorAll("details")].map((each) => each.open);
    new MutationObserver((_, observer) => {
      const swapped = parent.querySelector(":scope > .call-body");
      if (swapped === null || swapped === body) return;
      observer.disconnect();
      const all = swapped.querySelectorAll("details");
      open.forEach((isOpen, at) => { if (all[at]) all[at].open = isOpen; });
    }).observe(parent, { childList: true });
  });

  // The address names a call: open it.
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.querySelector("summary").focus();
  }
})();
