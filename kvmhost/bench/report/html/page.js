"use strict";
// Searches, opens what a link leads to, and tells the value under a pointer; the page reads without it.
(() => {
  const form = document.querySelector(".controls");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const suites = [...document.querySelectorAll(".suite")];
  const cards = [...document.querySelectorAll("article.bench")].map((element) => ({
    element,
    text: element.querySelector(".what").textContent.toLowerCase(),
  }));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { element, text } of cards) {
      element.hidden = !words.every((word) => text.includes(word));
      count += !element.hidden;
    }
    for (const suite of suites) suite.hidden = !suite.querySelector("article.bench:not([hidden])");
    shown.textContent =
      count === cards.length ? `${count} benchmarks` : `${count} of ${cards.length} benchmarks`;
  };

  // A link may lead to something that is searched away or closed.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.matches("article.bench") && target.hidden) {
      search.value = "";
      filter();
    }
    const closed = target.closest("details");
    if (closed) closed.open = true;
    target.scrollIntoView({ block: target.matches("article") ? "center" : "start" });
  };

  const digits = (value) =>
    Math.abs(value) >= 99.95
      ? Math.round(value).toLocaleString("en-US")
      : String(Number(value.toPrecision(3)));

  // A line across all lanes of one axis, with the value it stands at.
  const reader = (axis) => {
    const { low, high, word } = axis.dataset;
    const cursor = document.createElement("output");
    cursor.className = "cursor";
    cursor.hidden = true;
    axis.append(cursor);
    axis.addEventListener("pointermove", (event) => {
      const plot = axis.querySelector("svg.strip").getBoundingClientRect();
      const part = (event.clientX - plot.left) / plot.width;
      cursor.hidden = part < 0 || part > 1;
      if (cursor.hidden) return;
      cursor.style.left = `${event.clientX - axis.getBoundingClientRect().left}px`;
      cursor.classList.toggle("flipped", part > 0.7);
      cursor.textContent = `${digits(Number(low) + part * (high - low))}${word === "×" ? "" : " "}${word}`;
    });
    axis.addEventListener("pointerleave", () => (cursor.hidden = true));
  };

  const menu = new Map(
    [...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]),
  );
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries)
        isIntersecting
          ? menu.get(target.id).setAttribute("aria-current", "true")
          : menu.get(target.id).removeAttribute("aria-current");
    },
    { rootMargin: "-30% 0px -60% 0px" },
  );
  for (const name of menu.keys()) watcher.observe(document.getElementById(name));

  document.querySelectorAll(".axis-of").forEach(reader);
  if (form) {
    form.hidden = false;
    search.value = new URLSearchParams(location.search).get("search") ?? "";
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && document.activeElement !== search) {
        event.preventDefault();
        search.focus();
      }
    });
    filter();
  }
  addEventListener("beforeprint", () => {
    for (const closed of document.querySelectorAll("details")) closed.open = true;
  });
  addEventListener("hashchange", reveal);
  reveal();
  document.documentElement.dataset.ready = String(cards.length);
})();
