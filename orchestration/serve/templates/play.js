/* The play control of drawn sequences: shows the strip's own pictures one after the other, of a volume all slices of
   depth or one; nothing is fetched. */
"use strict";
for (const section of document.querySelectorAll("[data-player]")) {
  const stage = section.querySelector(".stage");
  const [picture, button, slider, label] = ["img", "button", "input", "output"].map((name) => stage.querySelector(name));
  const depth = stage.querySelector("[data-slices]");
  const frames = [...section.querySelectorAll(".strip li")];
  let timer = null;
  const canvas = document.createElement("canvas");
  // Slices lie side by side, one empty column between them.
  const slice = (image, number, count) => {
    canvas.width = (image.naturalWidth + 1) / count - 1;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, -number * (canvas.width + 1), 0);
    return canvas.toDataURL();
  };
  const show = (index) => {
    slider.value = index;
    const source = frames[index].querySelector("img");
    const chosen = depth === null ? 0 : Number(depth.value);
    const count = depth === null ? 1 : Number(depth.dataset.slices);
    picture.src = chosen ? slice(source, chosen - 1, count) : source.src;
    picture.width = chosen ? canvas.width : source.naturalWidth;
    stage.toggleAttribute("data-one", chosen > 0);
    label.textContent = chosen ? `${source.alt}, slice ${chosen} of ${count}` : source.alt;
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
  depth?.addEventListener("input", () => show(Number(slider.value)));
  stage.hidden = false;
  show(0);
}
