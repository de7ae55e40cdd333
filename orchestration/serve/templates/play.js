/* The play control of drawn sequences: shows the strip's own pictures one after the other; nothing is fetched. */
"use strict";
for (const section of document.querySelectorAll("[data-player]")) {
  const stage = section.querySelector(".stage");
  const [picture, button, slider, label] = ["img", "button", "input", "output"].map((name) => stage.querySelector(name));
  const frames = [...section.querySelectorAll(".strip li")];
  let timer = null;
  const show = (index) => {
    slider.value = index;
    const source = frames[index].querySelector("img");
    picture.src = source.src;
    label.textContent = source.alt;
    frames.forEach((frame, place) => frame.toggleAttribute("aria-current", place === index));
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
    button.setAttribute("aria-pressed", "false");
  };
  const play = () => {
    timer = setInterval(() => show((Number(slider.value) + 1) % frames.length), 160);
    button.textContent = "Pause";
    button.setAttribute("aria-pressed", "true");
  };
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  stage.hidden = false;
  show(0);
}
