// Clips: silent, and still until a reader wants them to move. The two of a pair play in step.
const CLIP = "data:video/";
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

function clip(source, attributes) {
  const video = make("video", { src: source, playsinline: true, preload: "auto", ...attributes });
  video.muted = true; // on an element that a script has made the attribute is of no effect
  return video;
}

// A clip that is paused again before it could begin says so by a rejected promise.
const play = (video) => video.play().catch(() => {});

// In the gallery a clip plays while the pointer or the focus is on its card.
function playOnVisit(card, video) {
  if (calm.matches) return;
  video.loop = true;
  const leave = () => {
    video.pause();
    video.currentTime = 0;
  };
  for (const name of ["pointerenter", "focus"]) card.addEventListener(name, () => play(video));
  for (const name of ["pointerleave", "blur"]) card.addEventListener(name, leave);
}

// A button that plays and stops several clips together; they begin again once all have ended, so none runs ahead.
function playButton(clips) {
  let playing = false;
  const button = make("button", { type: "button", class: "quiet" }, "play both");
  const toggle = () => {
    playing = !playing;
    button.textContent = playing ? "stop" : "play both";
    for (const video of clips) playing ? play(video) : video.pause();
  };
  const again = () => {
    if (!playing || !clips.every((video) => video.ended)) return;
    for (const video of clips) {
      video.currentTime = 0;
      play(video);
    }
  };
  for (const video of clips) {
    video.controls = video.loop = false; // one button for all
    video.addEventListener("ended", again);
  }
  button.addEventListener("click", toggle);
  return button;
}
