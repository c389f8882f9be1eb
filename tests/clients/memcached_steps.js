// memcached (node-memcached), text protocol: node memcached_steps.js HOST PORT, with NODE_PATH set.
'use strict';

const util = require('util');
const Memcached = require('memcached');
const { allBytes, mib, tooLarge, see, contains, end } = require('./steps.js');

async function main() {
  const c = new Memcached(`${process.argv[2]}:${process.argv[3]}`, { timeout: 30000, retries: 0, poolSize: 4, maxValue: 4 << 20 });
  const call = (name, ...args) => util.promisify(c[name]).apply(c, args);
  const get = (key) => call('get', key);

  await see('missing', () => get('missing'), undefined);
  await see('set', async () => [await call('set', 'key', 'value', 0), await get('key')], [true, 'value']);
  await see('empty', async () => [await call('set', 'empty', '', 0), await get('empty')], [true, '']);
  for (const [name, value] of [['number', 42], ['boolean', true], ['object', { a: [1, null] }], ['buffer', allBytes], ['text', 'ümlaut']]) {
    await see(`${name} by its flags`, async () => [await call('set', name, value, 0), util.isDeepStrictEqual(await get(name), value)], [true, true]);
  }
  await see('1 MiB', async () => [await call('set', 'large', mib, 0), (await get('large')).equals(mib)], [true, true]);
  await see('expired', async () => [await call('set', 'brief', 'v', -1), await get('brief')], [true, undefined]);
  await see('touch', async () => [await call('set', 'long', 'v', 1000), await call('touch', 'long', 2000), await get('long')], [true, true, 'v']);
  await see('touch of nothing', () => call('touch', 'missing', 1), false);
  await see('add over', () => call('add', 'key', 'other', 0), contains('not stored'));
  await see('add', () => call('add', 'new', 'v', 0), true);
  await see('replace', () => call('replace', 'new', 'w', 0), true);
  await see('replace of nothing', () => call('replace', 'missing', 'w', 0), contains('not stored'));
  await see('append', async () => [await call('append', 'new', 'z'), await call('prepend', 'new', 'y'), await get('new')], [true, true, 'ywz']);
  await see('append to nothing', () => call('append', 'missing', 'z'), contains('not stored'));
  await see('del', async () => [await call('del', 'new'), await call('del', 'new')], [true, false]);
  await see('incr', async () => [await call('set', 'n', 10, 0), await call('incr', 'n', 5), await call('decr', 'n', 20)], [true, 15, 0]);
  await see('incr of nothing', () => call('incr', 'missing', 1), false);
  await see('incr of text', () => call('incr', 'key', 1), contains('cannot increment or decrement'));
  const { key, cas } = await call('gets', 'key');
  await see('gets', () => key, 'value');
  await see('cas', () => call('cas', 'key', 'swapped', cas, 0), true);
  await see('cas again', () => call('cas', 'key', 'swapped', cas, 0), false);
  const keys = Array.from({ length: 500 }, (_, i) => `many${i}`);
  await see('500 sets at once', async () => (await Promise.all(keys.map((k) => call('set', k, k, 0)))).every(Boolean), true);
  await see('500 gets at once', async () => (await Promise.all(keys.map(get))).every((v, i) => v === keys[i]), true);
  await see('getMulti', async () => Object.keys(await call('getMulti', [...keys, 'missing'])).length, 500);
  await see('key of 250 bytes', async () => [await call('set', 'k'.repeat(250), 'v', 0), await get('k'.repeat(250))], [true, 'v']);
  await see('version', async () => (await call('version'))[0].version.length > 0, true);
  const [stats] = await call('stats');
  await see('stats', () => ['pid', 'curr_items', 'get_hits', 'threads'].filter((n) => !(n in stats)), []);
  await see('settings', async () => (await call('settings')).length, 1);
  // An error of the server is taken for its end: the client goes on after its `reconnect`, so this one has its own.
  const other = new Memcached(`${process.argv[2]}:${process.argv[3]}`, { retries: 0, maxValue: 4 << 20 });
  await see('too large', () => util.promisify(other.set).call(other, 'large', tooLarge, 0), false);
  other.end();
  await see('flush', async () => [await call('flush'), await get('key')], [[true], undefined]);
  c.end();
  end();
}

main();
