// What the Node scripts here share: steps with the answer that is due.
'use strict';

const util = require('util');

const allBytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const mib = Buffer.concat(Array(4096).fill(allBytes));
const tooLarge = Buffer.alloc(3 << 20, 'x');

// An expiry that has passed: a UNIX time of 1970.
const passed = 3000000;

let wrong = 0;

/** Runs `step`, which may be asynchronous, and prints its answer; `due` is a value or a test of it. */
async function see(name, step, due) {
  let got;
  try {
    got = await step();
  } catch (e) {
    got = `error: ${e.message || e}`;
  }
  const fine = typeof due === 'function' ? due(got) : util.isDeepStrictEqual(got, due);
  if (!fine) wrong += 1;
  let shown = util.inspect(got, { breakLength: Infinity });
  if (shown.length > 150) shown = `${shown.slice(0, 60)}... of ${shown.length}`;
  console.log(`${name}: ${shown}${fine ? '' : ' WRONG'}`);
}

/** For errors, whose texts differ with versions: what they contain is due. */
const contains = (text) => (got) => typeof got === 'string' && got.includes(text);

function end() {
  console.log('end');
  // A library may keep a connection or a timer, and the process with it. Pipes are written at once.
  process.exit(wrong ? 1 : 0);
}

module.exports = { allBytes, mib, tooLarge, passed, see, contains, end };
