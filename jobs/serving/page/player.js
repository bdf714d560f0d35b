// Plays pieces of sound one after another while they come, and keeps them to play them again.

const AHEAD = 0.06; // seconds that the first piece waits, so that a late second one leaves no gap

export class Player {
  // changed: called when it begins and when it ends to play.
  constructor(changed) {
    this.changed = changed;
    this.pieces = [];
    this.playing = new Set();
  }

  // A new sound at this rate, in Hz. The context has the same: nothing is resampled at the joints.
  begin(rate) {
    this.stop();
    this.pieces = [];
    this.rate = rate;
  }

  get isPlaying() {
    return this.playing.size > 0;
  }

  get samples() {
    return this.pieces.reduce((sum, piece) => sum + piece.length, 0);
  }

  // Keep a piece, and play it as well where `aloud`.
  add(piece, aloud) {
    this.pieces.push(piece);
    if (aloud) this.play(piece);
  }

  replay() {
    this.stop();
    this.pieces.forEach((piece) => this.play(piece));
  }

  play(piece) {
    if (this.context?.sampleRate !== this.rate) {
      this.context?.close();
      this.context = new AudioContext({ sampleRate: this.rate });
      this.next = 0;
    }
    this.context.resume();
    const buffer = this.context.createBuffer(1, piece.length, this.rate);
    buffer.copyToChannel(piece, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    if (this.next < this.context.currentTime) this.next = this.context.currentTime + AHEAD;
    source.start(this.next);
    this.next += buffer.duration;
    this.playing.add(source);
    source.onended = () => {
      this.playing.delete(source);
      if (!this.isPlaying) this.changed();
    };
    if (this.playing.size === 1) this.changed();
  }

  stop() {
    this.playing.forEach((source) => source.stop());
    this.playing.clear();
    this.next = 0;
    this.changed();
  }
}
