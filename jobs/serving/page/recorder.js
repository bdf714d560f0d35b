// Runs on the browser's audio thread: hands on what the microphone gave, in pieces of 20 ms.
class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(Math.round(sampleRate / 50));
    this.count = 0;
    this.open = true;
    this.port.onmessage = () => {
      this.port.postMessage(this.piece.slice(0, this.count));
      this.port.postMessage(null); // nothing follows
      this.open = false;
    };
  }

  process([channels]) {
    if (!this.open) return false;
    const samples = channels[0] ?? [];
    for (const sample of samples) {
      this.piece[this.count++] = sample;
      if (this.count === this.piece.length) {
        this.port.postMessage(this.piece, [this.piece.buffer]);
        this.piece = new Float32Array(Math.round(sampleRate / 50));
        this.count = 0;
      }
    }
    return true;
  }
}
registerProcessor("recorder", Recorder);
