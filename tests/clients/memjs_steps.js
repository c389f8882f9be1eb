// memjs, binary protocol: node memjs_steps.js HOST PORT, with NODE_PATH set.
'use strict';

const memjs = require('memjs');
const { allBytes, mib, tooLarge, passed, see, contains, end } = require('./steps.js');

async function main() {
  // Timeouts are in seconds. One attempt: a change that is sent again may take place twice.
  const c = memjs.Client.create(`${process.argv[2]}:${process.argv[3]}`, { timeout: 30, conntimeout: 30, retries: 1 });
  const text = async (key) => {
    const { value } = await c.get(key);
    return value && value.toString();
  };

  await see('missing', () => c.get('missing'), { value: null, flags: null });
  await see('set', async () => [await c.set('key', 'value'), await text('key')], [true, 'value']);
  await see('flags', async () => (await c.get('key')).flags.length, 4);
  await see('empty', async () => [await c.set('empty', ''), await text('empty')], [true, '']);
  await see('all bytes', async () => [await c.set('bytes', allBytes), (await c.get('bytes')).value.equals(allBytes)], [true, true]);
  await see('1 MiB', async () => [await c.set('large', mib), (await c.get('large')).value.equals(mib)], [true, true]);
  await see('too large', () => c.set('large', tooLarge), contains('Value too large'));
  await see('goes on', () => text('key'), 'value');
  await see('not expired', async () => [await c.set('long', 'v', { expires: 1000 }), await text('long')], [true, 'v']);
  await see('expired', async () => [await c.set('brief', 'v', { expires: passed }), await text('brief')], [true, null]);
  await see('touch', () => c.touch('long', 2000), true);
  await see('touch of nothing', () => c.touch('missing', 1), false);
  await see('touch ends it', async () => [await c.touch('long', passed), await text('long')], [true, null]);
  await see('add over', () => c.add('key', 'other'), false);
  await see('add', async () => [await c.add('new', 'v'), await text('new')], [true, 'v']);
  await see('replace', async () => [await c.replace('new', 'w'), await text('new')], [true, 'w']);
  await see('replace of nothing', () => c.replace('missing', 'w'), false);
  await see('append', async () => [await c.append('new', 'z'), await text('new')], [true, 'wz']);
  // Its prepend sends the opcode of append.
  await see('prepend', async () => [await c.prepend('new', 'y'), await text('new')], [true, 'wzy']);
  await see('append to nothing', () => c.append('missing', 'z'), contains('Item not stored'));
  await see('delete', async () => [await c.delete('new'), await c.delete('new')], [true, false]);
  await see('increment creates', () => c.increment('n', 5, { initial: 10 }), { success: true, value: 10 });
  await see('increment', () => c.increment('n', 5), { success: true, value: 15 });
  await see('decrement', () => c.decrement('n', 20, {}), { success: true, value: 0 });
  const keys = Array.from({ length: 500 }, (_, i) => `many${i}`);
  await see('500 sets at once', async () => (await Promise.all(keys.map((k) => c.set(k, k)))).every(Boolean), true);
  await see('500 gets at once', async () => (await Promise.all(keys.map(text))).every((v, i) => v === keys[i]), true);
  await see('key beyond ASCII', async () => [await c.set('schlüssel', 'v'), await text('schlüssel')], [true, 'v']);
  await see('key of 250 bytes', async () => [await c.set('k'.repeat(250), 'v'), await text('k'.repeat(250))], [true, 'v']);
  const stats = () => new Promise((done, failed) => c.stats((e, _, s) => (e ? failed(e) : done(s))));
  await see('stats', async () => { const told = await stats(); return ['pid', 'curr_items', 'get_hits', 'threads'].filter((n) => !(n in told)); }, []);
  await see('flush', async () => [await new Promise((done) => c.flush((e) => done(e))), await text('key')], [null, null]);
  c.close();
  end();
}

main();
