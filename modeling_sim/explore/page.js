// Moves the cursor of every `.sim-player` while its audio plays; a click on its pictures plays from there.
(() => {
  const playerOf = (node) => node instanceof Element && node.closest(".sim-player");

  const place = (player) => {
    const audio = player.querySelector("audio");
    const cursor = player.querySelector(".sim-cursor");
    const time = player.querySelector(".sim-time");
    if (!audio || !cursor || !time) return;
    const seconds = Number(player.dataset.seconds) || audio.duration || 1;
    const share = Math.min(1, audio.currentTime / seconds);
    cursor.hidden = false;
    cursor.style.left = `${time.offsetLeft + share * time.offsetWidth}px`;
    const scroll = player.querySelector(".sim-scroll");
    const at = cursor.offsetLeft;
    if (!audio.paused && (at < scroll.scrollLeft || at > scroll.scrollLeft + scroll.clientWidth)) {
      scroll.scrollLeft = at - scroll.clientWidth / 4;
    }
  };

  const follow = (player) => {
    place(player);
    const audio = player.querySelector("audio");
    if (audio && !audio.paused && player.isConnected) requestAnimationFrame(() => follow(player));
  };

  // Media events do not bubble, so they are handled in the capture phase.
  document.addEventListener("play", (event) => {
    for (const audio of document.querySelectorAll(".sim-player audio")) {
      if (audio !== event.target) audio.pause();
    }
    const player = playerOf(event.target);
    if (player) follow(player);
  }, true);
  for (const name of ["timeupdate", "seeked"]) {
    document.addEventListener(name, (event) => {
      const player = playerOf(event.target);
      if (player) place(player);
    }, true);
  }

  document.addEventListener("click", (event) => {
    const player = playerOf(event.target);
    const time = event.target instanceof Element && event.target.closest(".sim-time");
    const audio = player && player.querySelector("audio");
    if (!time || !audio) return;
    const box = time.getBoundingClientRect();
    audio.currentTime = (event.clientX - box.left) / box.width * (Number(player.dataset.seconds) || audio.duration);
    audio.play();
  });

  document.addEventListener("input", (event) => {
    const player = playerOf(event.target);
    if (!player || !event.target.matches(".sim-zoom input")) return;
    player.querySelector(".sim-strip").style.setProperty("--zoom", event.target.value);
    place(player);
  });
})();
