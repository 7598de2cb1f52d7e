// The test in the browser: play, rate, next; at the end the answers as a file. Nothing is sent.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const screens = new Map(data.screens.map((screen) => [screen.id, screen]));
  const place = "genlab-listening-" + data.key_sha256;
  const BANDS = ["Bad", "Poor", "Fair", "Good", "Excellent"];
  const NO_DIFFERENCE = "no difference";
  let state = null, playing = null, shownAt = 0, isKept = true;

  // The order is this listener's own: ratings first, then pairs, each in random order, and so the clips of a screen.
  const draw = (below) => {
    const limit = 2 ** 32 - 2 ** 32 % below, box = new Uint32Array(1);
    do crypto.getRandomValues(box); while (box[0] >= limit);
    return box[0] % below;
  };
  const shuffle = (items) => {
    const all = [...items];
    for (let i = all.length - 1; i > 0; i--) {
      const j = draw(i + 1);
      [all[i], all[j]] = [all[j], all[i]];
    }
    return all;
  };
  const begin = () => ({
    listener: Array.from({ length: 8 }, () => "abcdefghijkmnpqrstuvwxyz23456789"[draw(32)]).join(""),
    at: -1,
    answers: ["mushra", "ab"].flatMap((test) => shuffle(data.screens.filter((screen) => screen.test === test)))
      .map((screen) => ({
        screen: screen.id, seconds: 0, reference: { plays: 0, heard: false }, choice: "",
        clips: shuffle(screen.clips).map((id) => ({ id, plays: 0, heard: false, rating: null })),
      })),
  });
  const keep = () => {
    try { localStorage.setItem(place, JSON.stringify(state)); } catch { isKept = false; }
  };
  const restore = () => {
    try { return JSON.parse(localStorage.getItem(place)); } catch { return null; }
  };

  // A button that plays or stops one clip; starting one stops the others. Heard means played to the end once.
  const hear = (button, name, id, record, changed) => {
    const audio = new Audio(data.clips[id]);
    const stop = () => { audio.pause(); audio.currentTime = 0; };
    const label = () => {
      button.classList.toggle("playing", !audio.paused && !audio.ended);
      button.querySelector(".verb").textContent = (audio.paused || audio.ended ? "Play " : "Stop ") + name;
    };
    button.replaceChildren(find("hear").content.cloneNode(true));
    button.onclick = () => {
      if (!audio.paused) return stop();
      if (playing) playing();
      playing = stop;
      audio.play().then(() => { record.plays += 1; changed(); }, () => {
        if (audio.error) button.querySelector(".verb").textContent = "Cannot play " + name;
      });
    };
    audio.addEventListener("play", label);
    audio.addEventListener("pause", label);
    audio.addEventListener("ended", () => { record.heard = true; label(); changed(); });
    label();
  };
  const letter = (index) => String.fromCharCode(65 + index);
  const list = (items) => items.join(", ");

  const isRating = (answer) => screens.get(answer.screen).test === "mushra";
  const missing = (answer) => {
    const names = (test) => answer.clips.map((clip, i) => test(clip) && letter(i)).filter(Boolean);
    const unheard = names((clip) => !clip.heard), unrated = names((clip) => clip.rating === null);
    if (isRating(answer) && !answer.reference.heard) unheard.unshift("the reference");
    const parts = [];
    if (unheard.length) parts.push("Still to hear to the end: " + list(unheard) + ".");
    if (isRating(answer) && unrated.length) parts.push("Still to rate: " + list(unrated) + ".");
    if (!isRating(answer) && !answer.choice) parts.push("Still to choose.");
    return parts.join(" ");
  };
  const showMissing = (answer) => {
    const text = missing(answer) || "All done on this screen.";
    // Screen readers speak whatever is written here, even if it is the same again.
    if (find("missing").textContent !== text) find("missing").textContent = text;
    find("next").disabled = missing(answer) !== "";
  };

  const addSlider = (row, clip, name, changed) => {
    const slider = row.querySelector("input"), value = row.querySelector(".value");
    const write = () => {
      const isRated = clip.rating !== null;
      const text = isRated ? clip.rating + " " + BANDS[Math.min(4, Math.floor(clip.rating / 20))] : "not rated";
      row.classList.toggle("rated", isRated);
      slider.setAttribute("aria-valuetext", text);
      value.textContent = text;
    };
    slider.setAttribute("aria-label", "Rating of " + name);
    if (clip.rating !== null) slider.value = clip.rating;
    slider.addEventListener("input", () => { clip.rating = Number(slider.value); write(); changed(); });
    write();
  };
  const addChoices = (answer, changed) => {
    const options = [[answer.clips[0].id, "A is better"], [NO_DIFFERENCE, "No difference"], [answer.clips[1].id, "B is better"]];
    const labels = options.map(([value, text]) => {
      const label = find("choice").content.cloneNode(true), input = label.querySelector("input");
      label.querySelector("span").textContent = text;
      input.checked = answer.choice === value;
      input.addEventListener("change", () => { answer.choice = value; changed(); });
      return label;
    });
    find("choices").replaceChildren(find("choices").querySelector("legend"), ...labels);
  };

  const showScreen = (answer) => {
    const screen = screens.get(answer.screen), rates = isRating(answer);
    const changed = () => { keep(); showMissing(answer); };
    find("screen").classList.toggle("pair", !rates);
    find("bands").hidden = !rates;
    find("choices").hidden = rates;
    find("count").textContent = "Screen " + (state.at + 1) + " of " + state.answers.length;
    find("progress").max = state.answers.length;
    find("progress").value = state.at;
    find("task").textContent = rates ? "Rate each clip against the reference" : "Which clip is better?";
    find("said").textContent = screen.text && "“" + screen.text + "”";
    hear(find("reference"), "reference", screen.reference, answer.reference, changed);
    find("clips").replaceChildren(...answer.clips.map((clip, i) => {
      const row = find("clip").content.cloneNode(true).firstElementChild;
      hear(row.querySelector("button"), letter(i), clip.id, clip, changed);
      if (rates) addSlider(row, clip, letter(i), changed);
      return row;
    }));
    if (!rates) addChoices(answer, changed);
    showMissing(answer);
  };

  const showStart = () => {
    const count = (test) => data.screens.filter((screen) => screen.test === test).length;
    for (const test of ["mushra", "ab"]) find("about-" + test).hidden = !count(test);
    const parts = [count("mushra") && count("mushra") + " screens to rate", count("ab") && count("ab") + " pairs to compare"];
    find("plan").textContent = list(parts.filter(Boolean)) + ". You can pause at any time and go back.";
    hear(find("volume"), "a clip", data.screens[0].reference, { plays: 0 }, () => {});
    const isUnderWay = state.answers.some((answer) => answer.clips.some((clip) => clip.plays));
    find("begin").textContent = isUnderWay ? "Go on where you were" : "Begin";
    find("again").hidden = !isUnderWay;
    find("listener").value = state.listener;
    for (const note of document.querySelectorAll(".unkept")) note.hidden = isKept;
  };

  const showEnd = () => {
    const text = JSON.stringify({
      format: "genlab-listening-answers-1", key_sha256: data.key_sha256, listener: state.listener,
      screens: state.answers.map(({ screen, seconds, reference, clips, choice }) => ({
        screen, seconds: Math.round(10 * seconds) / 10, reference_plays: reference.plays, choice,
        clips: clips.map(({ id, plays, rating }) => ({ id, plays, rating })),
      })),
    }, null, 1);
    find("answers").value = text;
    find("copied").textContent = "";
    URL.revokeObjectURL(find("save").href);
    find("save").href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    find("save").download = "answers-" + state.listener + ".json";
  };

  const go = (at) => {
    if (playing) playing();
    playing = null;
    const left = state.answers[state.at];
    if (left && !find("screen").hidden) left.seconds += (performance.now() - shownAt) / 1000;
    shownAt = performance.now();
    state.at = at;
    keep();
    const isEnd = at >= state.answers.length;
    find("start").hidden = at >= 0;
    find("screen").hidden = at < 0 || isEnd;
    find("end").hidden = !isEnd;
    if (at < 0) showStart(); else if (isEnd) showEnd(); else showScreen(state.answers[at]);
    scrollTo(0, 0);
    document.querySelector("section:not([hidden]) h1").focus();
  };
  const startAnew = () => { state = begin(); go(-1); };

  find("begin").onclick = () => {
    const name = find("listener").value.trim(), isGood = /^[A-Za-z0-9_-]{1,32}$/.test(name);
    find("bad-name").textContent = isGood ? "" : "Use 1 to 32 letters, digits, - or _.";
    if (!isGood) return find("listener").focus();
    state.listener = name;
    const open = state.answers.findIndex(missing);
    go(open < 0 ? state.answers.length - 1 : open);
  };
  find("again").onclick = startAnew;
  find("anew").onclick = startAnew;
  find("back").onclick = () => go(state.at - 1);
  find("next").onclick = () => go(state.at + 1);
  find("revise").onclick = () => go(state.at - 1);
  find("copy").onclick = async () => {
    const box = find("answers");
    try { await navigator.clipboard.writeText(box.value); } catch {
      box.closest("details").open = true;
      box.select();
      if (!document.execCommand("copy")) return find("copied").textContent = "Press Ctrl+C to copy the marked text.";
    }
    find("copied").textContent = "Copied.";
  };
  addEventListener("beforeunload", (event) => {
    if (!isKept && state.at >= 0) event.preventDefault();
  });

  state = restore() ?? begin();
  go(Math.min(state.at, state.answers.length));
})();
