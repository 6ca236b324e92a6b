// What a subscription says, one answer at a time.

const PATIENCE_MS = 60_000;

/** An observable, read like a queue. `next()` waits for an answer, or for the error or end that comes instead. */
export function answers(observable) {
  const come = [];
  const waiting = [];
  const say = (what) => (waiting.length ? waiting.shift()(what) : come.push(what));
  const subscription = observable.subscribe({
    next: (answer) => say(answer),
    error: (error) => say({ error }),
    complete: () => say({ over: true }),
  });
  return {
    next() {
      if (come.length) return Promise.resolve(come.shift());
      return new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error('nothing has come')), PATIENCE_MS);
        waiting.push((what) => {
          clearTimeout(late);
          resolve(what);
        });
      });
    },
    end: () => subscription.unsubscribe(),
  };
}
