// The reuse map by mouse, finger and keyboard: one stop for Tab, arrow keys from run to run.
for (const map of document.querySelectorAll(".map")) {
  const told = map.parentElement.querySelector(".told");
  const runs = [...map.querySelectorAll(".run")];
  const tell = (run, token) => {
    let line = run.dataset.told;
    if (token && run.dataset.donor !== undefined) {
      const index = [...run.children].indexOf(token);
      if (index > 0) line += ` (here: token ${Number(run.dataset.start) + index} from ${Number(run.dataset.donor) + index})`;
    }
    told.textContent = line;
  };
  map.addEventListener("mouseover", (event) => {
    const run = event.target.closest(".run");
    if (run) tell(run, event.target.closest("i"));
  });
  map.addEventListener("focusin", (event) => tell(event.target.closest(".run")));
  map.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const last = runs.length - 1;
    const at = runs.indexOf(document.activeElement);
    const to = { Home: 0, End: last }[event.key] ?? (step && Math.min(last, Math.max(0, at + step)));
    if (to === undefined || at < 0) return;
    event.preventDefault();
    runs[at].tabIndex = -1;
    runs[to].tabIndex = 0;
    runs[to].focus();
  });
}
