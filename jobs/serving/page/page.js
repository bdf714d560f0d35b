// The page: one socket, and what its messages do. jobs/serving/session.py describes them.

import { Latency, Sent } from "./latency.js";
import { Microphone } from "./microphone.js";
import { Player } from "./player.js";

const MOST_SHOWN = 3000; // tokens in a box; the rest is only counted
const get = (id) => document.getElementById(id);
const latency = { tokens: new Latency("tokens"), sound: new Latency("sound"), first: new Latency("first") };
// Of the resynthesis, and of the continuation.
const players = [new Player(showPlaying), new Player(showPlaying)];
const boxes = [get("tokens"), get("continued")];
const given = [[], []]; // the tokens of both
let about, microphone, sent, soundWaits, asked;
let state = "closed"; // ready, speaking, waiting (for what was heard) or continuing

const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const socket = new WebSocket(new URL(`${scheme}//${location.host}/speak`));
socket.binaryType = "arraybuffer";
socket.onmessage = ({ data }) => (typeof data === "string" ? read(JSON.parse(data)) : hear(data));
socket.onclose = () => {
  microphone?.release();
  players.forEach((player) => player.stop());
  become("closed", "The connection has ended. See that the job still runs, and reload the page.", true);
};

function say(type, values = {}) {
  socket.send(JSON.stringify({ type, ...values }));
}

function become(next, text, isError = false) {
  state = next;
  get("status").textContent = text;
  get("status").classList.toggle("error", isError);
  const speaking = state === "speaking";
  get("record").classList.toggle("speaking", speaking);
  get("record").textContent = speaking ? "Stop speaking" : "Speak";
  get("record").disabled = !["ready", "speaking"].includes(state);
  get("file").disabled = state !== "ready";
  get("live").disabled = state !== "ready";
  get("continue").disabled = state !== "ready" || !given[0].length;
  get("stop").disabled = state !== "continuing";
  get("copy").hidden = !navigator.clipboard;
  get("copy").disabled = !given[0].length;
  if (!speaking) get("level").value = 0;
  showPlaying();
}

function showPlaying() {
  ["replay", "replay-continuation"].forEach((id, part) => {
    const { isPlaying, samples } = players[part];
    get(id).textContent = isPlaying ? "Stop playing" : "Play their sound";
    get(id).disabled = !isPlaying && (state !== "ready" || !samples);
  });
}

function read(message) {
  if (message.type === "ready") greet(message);
  else if (message.type === "tokens") show(message);
  else if (message.type === "finished") finished();
  else if (message.type === "continued") {
    become("ready", `Continued for ${seconds(given[1].length)} s, with the seed ${message.seed}.`);
  } else if (message.type === "error") {
    microphone?.release();
    microphone = undefined;
    become("ready", `${message.message[0].toUpperCase()}${message.message.slice(1)}.`, true);
  }
}

const seconds = (tokens) => (tokens / about.tokens_per_second).toFixed(1);

function greet(message) {
  about = message;
  get("about").textContent =
    `${about.name} · ${about.codes.toLocaleString("en")} codes, ${about.tokens_per_second} a second` +
    (about.whole ? "" : ` · ${Math.round(about.latency_ms)} ms a chunk`);
  get("whole").hidden = !about.whole;
  get("whole").textContent =
    `Works on whole utterances: ${about.whole}. Tokens come when you stop.`;
  get("soundless").hidden = about.sound_rate !== null;
  get("soundless").textContent =
    "The tokenizer has no vocoder: there are tokens, but no sound of them.";
  get("live").closest("p").hidden = about.sound_rate === null || about.sound_at_end || about.whole;
  get("replay").hidden = get("replay-continuation").hidden = about.sound_rate === null;
  get("continuation").hidden = !about.lm;
  document.querySelector(".of-lm").hidden = !about.lm || about.sound_rate === null;
  get("temperature").value = about.temperature;
  get("top-p").value = about.top_p;
  ["temperature", "top-p", "seconds"].forEach(showValue);
  become("ready", "Ready: speak, or choose a file.");
}

function showValue(id) {
  get(`${id}-value`).textContent = id === "seconds" ? `${get(id).value} s` : Number(get(id).value).toFixed(2);
}

function clear(part) {
  boxes[part].replaceChildren();
  given[part] = [];
  players[part].begin(about.sound_rate);
}

function show({ tokens, first_end: firstEnd, part }) {
  given[part].push(...tokens);
  const box = boxes[part];
  for (const token of tokens) {
    const span = document.createElement("span");
    span.textContent = token;
    // The golden angle: codes of like numbers get unlike colours.
    span.style.setProperty("--hue", ((token * 137.508) % 360).toFixed(0));
    box.append(span);
  }
  while (box.childElementCount > MOST_SHOWN) box.firstChild.remove();
  box.scrollTop = box.scrollHeight;
  if (part === 0) {
    get("count").textContent = `${given[0].length.toLocaleString("en")} in ${seconds(given[0].length)} s`;
    soundWaits = sent?.when(firstEnd);
    if (soundWaits !== undefined) latency.tokens.add(performance.now() - soundWaits);
  }
}

function hear(data) {
  const part = new DataView(data).getUint32(0, true);
  players[part].add(new Float32Array(data, 4), aloud(part));
  if (part === 0 && soundWaits !== undefined) {
    latency.sound.add(performance.now() - soundWaits);
    soundWaits = undefined;
  }
  if (part === 1 && asked !== undefined) {
    latency.first.add(performance.now() - asked);
    asked = undefined;
  }
}

// A speaker hears the tokens' sound after the last word, or it would be recorded too.
const aloud = (part) => part === 1 || sent === undefined || get("live").checked;

function finished() {
  const silent = sent !== undefined && !get("live").checked && players[0].samples > 0;
  sent = undefined;
  become("ready", `${given[0].length} tokens of ${seconds(given[0].length)} s.`);
  if (silent) players[0].replay();
}

async function startSpeaking() {
  players.forEach((player) => player.stop());
  become("opening", "Asking for the microphone …");
  try {
    microphone = await Microphone.open((samples) => {
      socket.send(samples);
      sent?.add(samples.length);
      get("level").value = Math.sqrt(samples.reduce((sum, x) => Math.max(sum, Math.abs(x)), 0));
    });
  } catch (error) {
    become("ready", error.message, true);
    return;
  }
  clear(0);
  sent = new Sent();
  latency.tokens.clear();
  latency.sound.clear();
  say("start", { sample_rate: microphone.sampleRate });
  microphone.begin();
  become("speaking", about.whole ? "Speak. Tokens come when you stop." : "Speak: tokens come as you do.");
}

async function stopSpeaking() {
  const open = microphone;
  microphone = undefined;
  become("waiting", "One moment …");
  await open.close();
  say("finish");
}

function sendFile() {
  const file = get("file").files[0];
  if (!file) return;
  if (file.size > about.most_bytes) {
    become("ready", `${file.name} is over ${about.most_bytes >> 20} MiB. Choose a smaller file.`, true);
  } else {
    players[1].stop();
    clear(0);
    sent = undefined;
    become("waiting", `Reading ${file.name} …`);
    say("file");
    socket.send(file);
  }
  get("file").value = ""; // so that the same file can be chosen again
}

function goOn() {
  clear(1);
  players[0].stop();
  asked = about.sound_rate ? performance.now() : undefined;
  say("continue", {
    temperature: Number(get("temperature").value),
    top_p: Number(get("top-p").value),
    seconds: Number(get("seconds").value),
  });
  become("continuing", "Generating …");
}

get("record").onclick = () => (state === "speaking" ? stopSpeaking() : startSpeaking());
get("file").onchange = sendFile;
get("continue").onclick = goOn;
get("stop").onclick = () => {
  say("stop");
  players[1].stop();
};
["replay", "replay-continuation"].forEach((id, part) => {
  get(id).onclick = () => (players[part].isPlaying ? players[part].stop() : players[part].replay());
});
get("copy").onclick = async () => {
  await navigator.clipboard.writeText(given[0].join(" "));
  get("status").textContent = "Copied.";
};
["temperature", "top-p", "seconds"].forEach((id) => (get(id).oninput = () => showValue(id)));
