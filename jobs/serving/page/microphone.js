// The microphone: float32 samples of one channel, as raw as the browser gives them.

export class Microphone {
  // give: called with each piece of samples. Rejects with an Error whose message is for people.
  static async open(give) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error(
        "This browser gives a page no microphone unless it comes from this machine or over https. " +
        "Choose a file instead.");
    }
    const microphone = new Microphone();
    // What makes calls pleasant changes the sound, and so the tokens.
    const audio = {
      channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      microphone.stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(why(error));
    }
    try {
      await microphone.connect(give);
    } catch (error) {
      await microphone.release();
      throw new Error(`The microphone cannot be read (${error.message}). Choose a file instead.`);
    }
    return microphone;
  }

  async connect(give) {
    // At 16 kHz, or at the microphone's own rate where the browser cannot resample: the server can.
    let source;
    try {
      this.context = new AudioContext({ sampleRate: 16000 });
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      await this.context?.close();
      this.context = new AudioContext();
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule("recorder.js");
    this.node = new AudioWorkletNode(this.context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    this.ended = new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => (data ? give(data) : resolve());
    });
    // The context begins to run before the first sample is read, so none is lost.
    await this.context.resume();
    this.source = source;
  }

  get sampleRate() {
    return this.context.sampleRate;
  }

  begin() {
    this.source.connect(this.node);
  }

  // Give what is left and let go of the microphone.
  async close() {
    this.node.port.postMessage("end");
    await Promise.race([this.ended, new Promise((resolve) => setTimeout(resolve, 500))]);
    await this.release();
  }

  async release() {
    this.stream.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

function why(error) {
  if (error.name === "NotAllowedError") {
    return "The browser was told not to give this page the microphone. Allow it in the address bar, " +
      "or choose a file.";
  }
  if (error.name === "NotFoundError") return "There is no microphone. Choose a file instead.";
  return `The microphone cannot be opened (${error.message}). Choose a file instead.`;
}
