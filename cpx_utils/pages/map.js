"use strict";
// The address keeps the chosen compound (#compound=NAME), so that neighbours are links, "back" goes back, and a
// place on the map can be shared. Everything from data enters the page as text, never as HTML.
(async () => {
  const MAX_MATCHES = 24;
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const element = (id) => document.getElementById(id);
  const [method, search, found, matches] = ["method", "search", "found", "matches"].map(element);
  const [heading, text, neighbours] = ["chosen-name", "chosen-text", "neighbours"].map(element);
  const isDrawn = (number) => number < data.mechanisms.length;
  const numbers = new Map(data.names.map((name, number) => [name, number]));
  const mechanismsOf = (number) => (isDrawn(number) ? data.mechanisms[number] : []);
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

  await Bokeh.embed.embed_item(data.plot, "plot");
  const plot = Bokeh.documents[0].get_model_by_name("map");
  const source = (name) => Bokeh.documents[0].get_model_by_name(name);
  if (matchMedia("(pointer: coarse)").matches) {
    plot.toolbar.active_drag = null; // a finger on the map scrolls the page, until the reader asks to move the map
  }

  const address = (number) => `#${new URLSearchParams({ compound: data.names[number] })}`;
  const chosenNumber = () => {
    const number = numbers.get(new URLSearchParams(location.hash.slice(1)).get("compound"));
    return number !== undefined && isDrawn(number) ? number : undefined;
  };
  const choose = (number) => {
    location.hash = address(number);
  };
  const linkTo = (number) => {
    const link = document.createElement("a");
    link.textContent = data.names[number];
    link.href = address(number);
    return link;
  };
  const current = () => data.methods[method.value];
  const placed = (list) => {
    const { x, y } = current();
    const drawn = list.filter((number) => isDrawn(number) && x[number] !== null);
    return { x: drawn.map((number) => x[number]), y: drawn.map((number) => y[number]) };
  };

  // What the search finds: names before mechanisms, and names that start with the words before others.
  const matching = () => {
    const words = search.value.trim().toLowerCase();
    if (!words) {
      return [];
    }
    const rank = (number) => {
      const at = data.names[number].toLowerCase().indexOf(words);
      const inMechanisms = data.mechanisms[number].join("; ").toLowerCase().includes(words);
      return at === 0 ? 0 : at > 0 ? 1 : inMechanisms ? 2 : 3;
    };
    const all = data.mechanisms.map((_, number) => [rank(number), number]).filter(([place]) => place < 3);
    return all.sort((a, b) => a[0] - b[0] || data.names[a[1]].localeCompare(data.names[b[1]])).map((pair) => pair[1]);
  };

  const showMatches = () => {
    const all = matching();
    matches.replaceChildren(
      ...all.slice(0, MAX_MATCHES).map((number) => {
        const item = document.createElement("li");
        item.append(linkTo(number));
        return item;
      }),
    );
    const more = all.length > MAX_MATCHES ? `, the first ${MAX_MATCHES} below` : "";
    found.textContent = search.value.trim()
      ? `${plural(all.length, "compound")} found${more}.`
      : "Type a part of a name; Enter chooses the first that fits.";
    source("found").data = placed(all);
  };

  const showChosen = () => {
    const number = chosenNumber();
    const near = number === undefined ? [] : current().nearest[number];
    source("chosen").data = placed(number === undefined ? [] : [number]);
    source("neighbours").data = placed(near);
    const from = placed(number === undefined ? [] : [number]);
    const to = placed(near);
    const ends = from.x.length ? to.x : [];
    source("links").data = { x0: ends.map(() => from.x[0]), y0: ends.map(() => from.y[0]), x1: ends,
      y1: from.x.length ? to.y : [] };
    if (number === undefined) {
      return;
    }
    const mine = mechanismsOf(number);
    heading.textContent = data.names[number];
    const doses = data.doses[number] ? `, ${plural(data.doses[number], "dose")}` : "";
    text.textContent = `${mine.join("; ") || "mechanism unknown"} · ${
      plural(data.wells[number], "CP well")}${doses}. Nearest by cosine in ${current().label}:`;
    neighbours.replaceChildren(
      ...near.map((other, place) => {
        const item = document.createElement("li");
        const theirs = mechanismsOf(other);
        const isSame = theirs.some((name) => mine.includes(name));
        item.append(isDrawn(other) ? linkTo(other) : data.names[other]);
        item.append(` ${current().cosine[number][place].toFixed(2)}`);
        const words = document.createElement("span");
        words.className = isSame ? "same" : "soft";
        words.textContent = isDrawn(other)
          ? ` · ${theirs.join("; ") || "mechanism unknown"}${isSame ? " (shared)" : ""}`
          : " · not drawn";
        item.append(words);
        return item;
      }),
    );
  };

  const showMethod = () => {
    const { x, y, nearest, cosine } = current();
    const named = (number) =>
      nearest[number].slice(0, 3).map((other, place) =>
        `${data.names[other]} (${cosine[number][place].toFixed(2)})`).join(", ");
    const number = (value) => value ?? NaN;
    const points = source("points");
    points.data = { ...points.data, x: x.map(number), y: y.map(number), nearest: x.map((_, row) => named(row)) };
    plot.reset.emit();
    showMatches();
    showChosen();
  };

  method.addEventListener("change", showMethod);
  search.addEventListener("input", showMatches);
  search.addEventListener("keydown", (event) => {
    const first = event.key === "Enter" ? matching()[0] : undefined;
    if (first !== undefined) {
      choose(first);
    }
  });
  source("points").selected.properties.indices.change.connect(() => {
    const [first] = source("points").selected.indices;
    if (first !== undefined) {
      choose(first);
    }
  });
  addEventListener("hashchange", () => {
    showChosen();
    if (chosenNumber() !== undefined) {
      heading.focus(); // the link that was followed is gone from the list
    }
  });
  showMethod();
})();
