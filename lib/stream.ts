import { isPromise } from 'node:util/types';
import { AttentionError } from './errors';
import { type NativeEvent, type NativeGraph, type NativeStream, native } from './native';
import { isObject, show } from './options';
import type { Device } from './tensor';

/** The addon's stream behind a Stream; ERR_DISPOSED or ERR_OPTION when there is none. */
export let streamHandle: (value: unknown, name: string) => NativeStream;

/** The addon's stream of an option that may be left out. */
export const optionalStream = (value: unknown): NativeStream | undefined =>
  value === undefined ? undefined : streamHandle(value, 'stream');

/**
 * A queue of operations on one device. Operations of one stream run in order, those of different streams side by side,
 * except that whatever touches a tensor waits for the work that still writes it.
 *
 * At most 262144 operations may wait in a stream; beyond that calls fail with ERR_OUT_OF_MEMORY.
 */
export class Stream {
  static {
    streamHandle = (value, name) => {
      if (!isObject(value) || !(#handle in value)) {
        throw new AttentionError('ERR_OPTION', `${name} is ${show(value)}; it must be a Stream`);
      }
      return value.#use(name);
    };
  }

  #handle: NativeStream | undefined;
  #capturing = false;
  readonly #device: Device;

  /**
   * A new stream on a device, 'cpu' unless given.
   *
   * @throws AttentionError ERR_DEVICE for a device that is not there.
   */
  constructor(device: Device = 'cpu') {
    if (typeof device !== 'string') {
      throw new AttentionError('ERR_DEVICE', `Stream: device is ${show(device)}; use 'cpu', 'cuda' or 'cuda:N'`);
    }
    this.#device = native.resolveDevice(device) as Device;
    this.#handle = native.streamCreate(device);
  }

  /** The device whose operations the stream runs. */
  get device(): Device {
    return this.#device;
  }

  #use(name = 'this Stream'): NativeStream {
    if (this.#handle) return this.#handle;
    throw new AttentionError('ERR_DISPOSED', `${name}, a Stream on ${this.#device}, was disposed of; make a new one`);
  }

  /** Resolves when all that has been enqueued so far is done; rejects with the first failure of the stream. */
  synchronize(): Promise<void> {
    return native.streamSynchronize(this.#use());
  }

  /**
   * An event at this point of the stream.
   *
   * @throws AttentionError ERR_OPTION inside `capture`, ERR_OUT_OF_MEMORY when the queue is full.
   */
  record(): Event {
    return makeEvent(native.streamRecord(this.#use()), this.#device);
  }

  /**
   * Lets what is enqueued from now on begin after the event, which may be of another device.
   *
   * @throws AttentionError ERR_OPTION inside `capture`, ERR_OUT_OF_MEMORY when the queue is full.
   */
  wait(event: Event): void {
    native.streamWait(this.#use(), eventHandle(event));
  }

  /**
   * Records the operations that `fn` enqueues on this stream instead of running them. Their outputs belong to the
   * graph: each launch overwrites them. Operations on other streams run as ever; `record` and `wait` are refused here.
   * On a GPU, host memory can be copied inside only when it is pinned.
   *
   * @throws AttentionError ERR_OPTION when something cannot be recorded; the stream is then as before.
   */
  capture(fn: () => void): Graph {
    if (typeof fn !== 'function') {
      throw new AttentionError('ERR_OPTION', `capture: fn is ${show(fn)}; it must be a function`);
    }
    const handle = this.#use();
    native.streamBeginCapture(handle);
    let result: unknown;
    this.#capturing = true;
    try {
      result = fn();
    } catch (error) {
      native.streamAbandonCapture(handle);
      throw error;
    } finally {
      this.#capturing = false;
    }
    if (isPromise(result)) {
      native.streamAbandonCapture(handle);
      result.catch(() => {}); // what it does later is not part of the capture, and its failure not ours
      throw new AttentionError('ERR_OPTION', 'capture: fn returned a promise; it must enqueue synchronously');
    }
    return makeGraph(native.streamEndCapture(handle), this);
  }

  /** Lets go of the stream. Queued work still runs to its end. Idempotent. */
  dispose(): void {
    if (this.#capturing) {
      throw new AttentionError('ERR_OPTION', 'dispose cannot be called on a stream while it captures; call it after');
    }
    if (this.#handle) native.streamDispose(this.#handle);
    this.#handle = undefined;
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

let makeEvent: (handle: NativeEvent, device: Device) => Event;
let eventHandle: (value: unknown) => NativeEvent;

/** A point of a stream, made by {@link Stream.record}. */
export class Event {
  static {
    makeEvent = (handle, device) => new Event(handle, device);
    eventHandle = (value) => {
      if (isObject(value) && #handle in value) return value.#handle;
      throw new AttentionError('ERR_OPTION', `event is ${show(value)}; it must be an Event`);
    };
  }

  readonly #handle: NativeEvent;
  readonly #device: Device;

  private constructor(handle: NativeEvent, device: Device) {
    this.#handle = handle;
    this.#device = device;
  }

  /** Resolves when the stream has reached this point. */
  done(): Promise<void> {
    return native.eventDone(this.#handle);
  }

  /**
   * Milliseconds by the device's clock from this event to a later one, once both have been reached.
   *
   * @throws AttentionError ERR_DEVICE for events of different devices, which have no common clock.
   */
  elapsedMs(later: Event): Promise<number> {
    const end = eventHandle(later);
    if (later.#device !== this.#device) {
      throw new AttentionError(
        'ERR_DEVICE',
        `elapsedMs: the events are of ${this.#device} and ${later.#device}, which have no common clock`,
      );
    }
    return Promise.all([this.done(), later.done()]).then(() => native.eventElapsedMs(this.#handle, end));
  }
}

let makeGraph: (handle: NativeGraph, stream: Stream) => Graph;

/**
 * Operations recorded by {@link Stream.capture}, to be run again and again. On a GPU they are one CUDA graph, and a launch
 * counts as one operation. Where calls over a {@link KvCache} are among them (appends, attention, those of a
 * {@link KvIndex}) there is no such graph: what these calls do follows from what the cache holds by then, so each launch makes
 * them anew, and enqueues the other operations one by one.
 */
export class Graph {
  static {
    makeGraph = (handle, stream) => new Graph(handle, stream);
  }

  #handle: NativeGraph | undefined;
  readonly #stream: Stream;

  private constructor(handle: NativeGraph, stream: Stream) {
    this.#handle = handle;
    this.#stream = stream;
  }

  /**
   * Enqueues the recorded operations, on the stream they were recorded from unless another of its device is given.
   *
   * @throws AttentionError before anything is enqueued: ERR_DISPOSED, ERR_DEVICE for a stream of another device,
   * ERR_OUT_OF_MEMORY when the queue is full or a recorded append exceeds the capacity of its cache. When memory for what
   * recorded calls over a cache need runs out on the way, what was enqueued before it runs.
   */
  launch(stream: Stream = this.#stream): void {
    if (!this.#handle) {
      throw new AttentionError('ERR_DISPOSED', 'this Graph was disposed of; capture a new one');
    }
    native.graphLaunch(this.#handle, streamHandle(stream, 'stream'));
  }

  /** Lets go of the recorded operations once no launch of them is queued. Idempotent. */
  dispose(): void {
    if (this.#handle) native.graphDispose(this.#handle);
    this.#handle = undefined;
  }

  /** The same as `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
