// Runs before the first paint, so that a chosen theme does not flash. Without a choice the system's counts (app.css).
(() => {
  try {
    const theme = localStorage.getItem("umekomi.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is off: the system's theme it is.
  }
})();
