// Players: one at a time, a playhead over the picture, keys to move. Without this script the browser's players stay.
"use strict";
(() => {
  const prompts = document.getElementById("prompts");
  if (!prompts) return;
  const start = Number(prompts.dataset.start), share = Number(prompts.dataset.share);
  let current = null;

  for (const clip of prompts.querySelectorAll(".clip")) {
    const audio = clip.querySelector("audio"), button = clip.querySelector(".play");
    const picture = clip.querySelector(".mel"), head = clip.querySelector(".playhead");
    const time = clip.querySelector(".time"), name = button.getAttribute("aria-label").replace(/^Play /, "");
    const seconds = Number(clip.dataset.seconds), extent = Number(clip.dataset.extent);
    audio.controls = false;
    button.hidden = false;
    clip.classList.add("scripted");

    const draw = () => {
      head.hidden = audio.paused && audio.currentTime === 0;
      head.style.left = 100 * (start + share * Math.min(audio.currentTime, seconds) / extent) + "%";
      time.textContent = (head.hidden ? "" : audio.currentTime.toFixed(2) + " / ") + seconds.toFixed(2) + " s";
      if (!audio.paused) requestAnimationFrame(draw);
    };
    const seek = (to) => {
      audio.currentTime = Math.max(0, Math.min(seconds, to));
      draw();
    };
    const play = () => audio.play().catch(() => { time.textContent = "cannot play"; });

    audio.addEventListener("play", () => {
      if (current && current !== audio) current.pause();
      current = audio;
      button.classList.add("playing");
      button.setAttribute("aria-label", "Pause " + name);
      draw();
    });
    audio.addEventListener("pause", () => {
      button.classList.remove("playing");
      button.setAttribute("aria-label", "Play " + name);
      draw();
    });
    audio.addEventListener("ended", () => { audio.currentTime = 0; draw(); });
    button.addEventListener("click", () => { if (audio.paused) play(); else audio.pause(); });
    button.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -0.2, ArrowRight: 0.2 }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      seek(audio.currentTime + move);
    });
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      const to = ((event.clientX - box.left) / box.width - start) / share * extent;
      if (audio.readyState === 0) audio.addEventListener("loadedmetadata", () => seek(to), { once: true });
      else seek(to);
      play();
    });
  }
})();
