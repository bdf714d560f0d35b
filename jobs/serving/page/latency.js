// When each sample was sent, and how long after it its tokens and its sound came.

export class Latency {
  // name: "tokens" for the cells tokens-last, tokens-median and tokens-p95.
  constructor(name) {
    this.cells = ["last", "median", "p95"].map((which) => document.getElementById(`${name}-${which}`));
    this.clear();
  }

  clear() {
    this.values = [];
    this.cells.forEach((cell) => (cell.textContent = "–"));
  }

  add(milliseconds) {
    this.values.push(milliseconds);
    if (this.values.length > 2000) this.values.shift();
    const sorted = [...this.values].sort((a, b) => a - b);
    const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    [milliseconds, at(0.5), at(0.95)].forEach((value, i) => (this.cells[i].textContent = value.toFixed(0)));
  }
}

export class Sent {
  constructor() {
    this.pieces = []; // [samples up to and with the piece, when it was sent]
    this.total = 0;
  }

  add(count) {
    this.total += count;
    this.pieces.push([this.total, performance.now()]);
  }

  // When the sample before `end` was sent; earlier ones are forgotten.
  when(end) {
    while (this.pieces.length > 1 && this.pieces[0][0] < end) this.pieces.shift();
    return this.pieces[0]?.[1];
  }
}
