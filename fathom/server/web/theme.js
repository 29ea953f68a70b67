// The colour scheme that was chosen, set before anything is drawn: loaded in the head, a dark page never flashes white.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("fathom.theme");
  } catch {
    // storage is blocked; the system's scheme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
