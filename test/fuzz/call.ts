// Calls of an interface, as text and as something to run.

import { types } from 'node:util';
import fc from 'fast-check';
import { type Any, type Pool, Thrown, type Value, value } from './value';

export interface Call {
  text: string;
  run(pool: Pool): Any;
  [fc.toStringMethod]?: () => string;
}

const call = (text: string, run: (pool: Pool) => Any): Call => ({
  text,
  run,
  [fc.toStringMethod]: () => text,
});

/** Names of all that there are calls of, with their class. */
export const called = new Set<string>();

/** A function called with values that go together. */
export function invokeWith(
  name: string,
  fn: (...args: Any[]) => Any,
  args: fc.Arbitrary<readonly Value[]>,
): fc.Arbitrary<Call> {
  called.add(name);
  return args.map((values) =>
    call(`${name}(${values.map(({ text }) => text).join(', ')})`, (pool) => {
      const made = values.map((one) => one.make(pool));
      while (made.length > 0 && made.at(-1) === undefined) made.pop();
      return fn(...made);
    }),
  );
}

/** A function called with values. */
export const invoke = (name: string, fn: (...args: Any[]) => Any, ...args: fc.Arbitrary<Value>[]): fc.Arbitrary<Call> =>
  invokeWith(name, fn, fc.tuple(...args));

/** Methods of objects that are none of their class end with a TypeError, as do those of JavaScript's own classes. */
function on(self: Any, type: { prototype: Any }, fn: () => Any): Any {
  const translated = (error: Any): Any => {
    const own = Object(self) === self && !types.isProxy(self) && Object.getPrototypeOf(self) === type.prototype;
    return !own && error instanceof TypeError ? new Thrown('by JavaScript') : error;
  };
  try {
    const made = fn();
    if (!types.isPromise(made)) return made;
    return made.catch((error) => {
      throw translated(error);
    });
  } catch (error) {
    throw translated(error);
  }
}

/** A method or accessor of a class called on a value. */
export function method(
  self: fc.Arbitrary<Value>,
  type: { prototype: Any; name: string },
  name: string | symbol,
  ...args: fc.Arbitrary<Value>[]
): fc.Arbitrary<Call> {
  called.add(`${type.name}.${String(name)}`);
  const property = Object.getOwnPropertyDescriptor(type.prototype, name)!;
  const fn = property.get ?? property.value;
  return fc.tuple(self, ...args).map(([first, ...values]) =>
    call(`${String(name)} of ${first!.text} (${values.map(({ text }) => text).join(', ')})`, (pool) => {
      const made = first!.make(pool);
      return on(made, type, () =>
        fn.apply(
          made,
          values.map((one) => one.make(pool)),
        ),
      );
    }),
  );
}

/** A method whose argument is a function, which makes calls of its own. */
export const nested = (
  self: fc.Arbitrary<Value>,
  type: { prototype: Any },
  name: string,
  calls: fc.Arbitrary<Call[]>,
  returned: fc.Arbitrary<Value>,
): fc.Arbitrary<Call> =>
  fc.tuple(self, calls, returned).map(([first, inner, result]) =>
    call(`${name} of ${first.text} { ${inner.map(({ text }) => text).join('; ')} } => ${result.text}`, (pool) => {
      const made = first.make(pool);
      const fn = () => {
        for (const one of inner) one.run(pool);
        return result.make(pool);
      };
      return on(made, type, () => type.prototype[name].call(made, fn));
    }),
  );

export const nothing: fc.Arbitrary<Value> = fc.constant(value('undefined', () => undefined));
