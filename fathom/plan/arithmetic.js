// The arithmetic of serving.py, cost.py and search.py once more, for the reader's browser. A test holds both to the same numbers, so a
// change there is a change here. Names are the same on purpose; `p` is a profile, `chip` a chip with its reachable `rates` by format.
"use strict";

const Plan = (() => {
  const ceilDiv = (a, b) => Math.ceil(a / b);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const gcd = (a, b) => (b ? gcd(b, a % b) : a);
  const KINDS = ["compute", "memory", "link", "overhead"];

  // Σ over positions 1…tokens of min(⌊position / ratio⌋, most)
  function visibleSum(tokens, ratio, most = Infinity) {
    const full = Math.min(tokens, most * ratio);
    const q = Math.floor(full / ratio), r = full % ratio;
    return ratio * q * (q - 1) / 2 + q * (r + 1) + (most === Infinity ? 0 : (tokens - full) * most);
  }

  const stageOf = (l) => l.tp * l.cp * l.dp;
  const devicesOf = (l) => stageOf(l) * l.pp;
  const share = (p, l) => ceilDiv(p.layers, l.pp) / p.layers;
  const widthOf = (chip, fmt) => chip.rates[fmt];
  const finish = (time) => {
    const total = sum(KINDS.map((k) => time[k]));
    const binds = KINDS.reduce((best, k) => (time[k] > time[best] ? k : best), KINDS[0]);
    return { ...time, total, binds };
  };

  function memory(p, chip, l, load, chunkLimit) {
    const s = share(p, l), group = ceilDiv(load.users, l.dp), blocks = ceilDiv(load.context, p.block_tokens);
    const perToken = p.streams * p.hidden * (p.item + 4) + 2 * (p.heads / l.tp) * p.head_dim * p.item
      + p.chosen * (p.hidden + 3 * p.expert_width) * p.item;
    const vocab = p.vocab_bytes / l.tp;
    return {
      "attention and shared": (p.cut_bytes / l.tp + p.whole_bytes) * s,
      "experts": p.expert_bytes / l.ep * s,
      "embedding and head": l.pp === 1 ? vocab : vocab / 2,
      "compressed state": group * ceilDiv(blocks, l.cp) * p.block_bytes * s,
      "windows and tails": group * p.fixed_bytes * s,
      "workspace": Math.min(chunkLimit, load.context - load.answer) / l.cp * perToken + ceilDiv(group, l.pp) * p.vocab * 4 / l.tp,
    };
  }

  function predict(p, chip, l, load, chunkLimit) {
    const prompt = load.context - load.answer;
    const group = ceilDiv(load.users, l.dp), together = ceilDiv(group, l.pp);
    const busy = Math.min(together * l.dp, ceilDiv(load.users, l.pp));
    const decode = decodeStep(p, chip, l, load.context, together, busy);
    const chunk = Math.min(chunkLimit, prompt);
    const prefill = prefillStep(p, chip, l, prompt, chunk);
    const tokenTime = decode.total * l.pp;
    const stored = p.block_bytes / p.block_tokens + p.fixed_bytes / prompt;
    const parts = memory(p, chip, l, load, chunkLimit), limit = 6 * p.expert_width / p.sent;
    const crossing = exchange(p, chip, l, p.sent * p.hidden * p.layers / chip.efficiency.links);
    return {
      memory: parts, needed: sum(Object.values(parts)), room: chip.memory * chip.efficiency.usable, decode, prefill,
      token_time: tokenTime, decode_rate: load.users / tokenTime,
      first_token: (prompt / chunk + l.pp - 1) * prefill.total + tokenTime,
      prefill_rate: l.dp * chunk / prefill.total,
      load_rate: chip.host * l.cp * l.pp * l.dp / stored,
      compute_per_byte: widthOf(chip, p.expert_format) / chip.efficiency.compute / (l.ep <= chip.domain ? chip.scale_up : chip.scale_out),
      reached_per_byte: limit * crossing / (p.expert_flops / widthOf(chip, p.expert_format)),
      hides_up_to: limit,
    };
  }

  function decodeStep(p, chip, l, context, sequences, busy) {
    let core = 0, index = 0, read = 0, gather = 0;
    for (const [ratio, csa, count] of p.ratios) {
      const visible = ratio ? Math.floor(context / ratio) : 0, chosen = csa ? Math.min(visible, p.topk) : visible;
      const window = Math.min(context, p.window);
      core += count * (window + chosen);
      index += count * visible * csa;
      read += count * (window * l.cp + chosen) * p.entry_bytes + count * visible * csa * p.key_bytes;
      if (ratio) gather += count * 4 * p.heads / l.tp * p.head_dim;
    }
    return step(p, chip, l, { tokens: sequences, stageTokens: busy, cut: 1, core, index, read: sequences * read / l.cp,
      gather: sequences * gather, gathered: 0 });
  }

  function prefillStep(p, chip, l, prompt, chunk) {
    const window = visibleSum(prompt, 1, p.window) / prompt;
    let core = 0, index = 0, gathered = 0;
    for (const [ratio, csa, count] of p.ratios) {
      const visible = ratio ? visibleSum(prompt, ratio) / prompt : 0;
      const chosen = csa ? visibleSum(prompt, ratio, p.topk) / prompt : visible;
      core += count * (window + chosen);
      index += count * visible * csa;
      gathered += count * chosen * csa * p.entry_bytes;
    }
    const stored = p.block_bytes / p.block_tokens;
    return step(p, chip, l, { tokens: chunk, stageTokens: chunk * l.dp, cut: l.cp, core, index, read: stored * prompt / 2 / l.cp,
      gather: chunk * stored, gathered });
  }

  function step(p, chip, l, w) {
    const e = chip.efficiency, s = share(p, l), layers = ceilDiv(p.layers, l.pp), bandwidth = chip.bandwidth * e.memory;
    const matrices = sum(Object.entries(p.cut_flops).map(([f, n]) => n / l.tp / widthOf(chip, f)))
      + sum(Object.entries(p.whole_flops).map(([f, n]) => n / widthOf(chip, f)));
    const history = w.core * p.entry_flops / widthOf(chip, p.core_format) + w.index * p.key_flops / widthOf(chip, p.index_format);
    const denseCompute = w.tokens * s * (matrices / w.cut + history / (l.tp * l.cp));
    const weights = (p.cut_bytes / l.tp + p.whole_bytes) * s + p.vocab_bytes / 2 / l.tp / l.pp;
    const denseMemory = (weights + w.read * s) / bandwidth;
    const own = w.stageTokens / stageOf(l);
    const expertCompute = own * p.expert_flops * s / widthOf(chip, p.expert_format);
    const touched = 1 - (1 - p.chosen / p.experts) ** (own * l.ep);
    const expertMemory = Math.max(p.experts / l.ep * touched, 1) * p.expert_bytes / p.experts * s / bandwidth;
    const time = { compute: 0, memory: 0, link: links(p, chip, l, w, Math.max(expertCompute, expertMemory)), overhead: layers * e.layer_overhead };
    time[denseCompute >= denseMemory ? "compute" : "memory"] += Math.max(denseCompute, denseMemory);
    time[expertCompute >= expertMemory ? "compute" : "memory"] += Math.max(expertCompute, expertMemory);
    time.memory += moved(p, l, w) * e.traffic * s / bandwidth;
    return finish(time);
  }

  function moved(p, l, w) {
    const tokens = 6 * p.streams * p.hidden + 4 * p.heads / l.tp * p.head_dim, experts = p.chosen * 3 * (p.hidden + p.expert_width);
    const own = w.tokens / w.cut, spread = w.stageTokens / stageOf(l);
    return p.layers * p.item * (own * tokens + spread * experts) + own * w.gathered;
  }

  function exchange(p, chip, l, sent) {
    const inside = Math.min(l.ep, chip.domain), domains = ceilDiv(l.ep, chip.domain);
    const far = (domains - 1) * (1 - (1 - 1 / domains) ** p.chosen) * sent / chip.scale_out;
    return Math.max(p.chosen * (inside - 1) / inside * sent / chip.scale_up, far);
  }

  function links(p, chip, l, w, hiddenBehind) {
    const e = chip.efficiency, s = share(p, l), layers = ceilDiv(p.layers, l.pp);
    const sent = w.stageTokens / stageOf(l) * p.sent * p.hidden * layers / e.links;
    let link = Math.max(0, exchange(p, chip, l, sent) + (l.ep > 1 ? 2 * layers * e.hop : 0) - hiddenBehind);
    if (l.tp > 1) {
      const reduced = 2 * (l.tp - 1) / l.tp * w.tokens / w.cut * p.hidden * p.item * layers / (chip.scale_up * e.links);
      link += (l.ep > 1 ? 1 : 2) * (reduced + layers * e.hop);
    }
    if (l.cp > 1) {
      const wire = l.tp * l.cp <= chip.domain ? chip.scale_up : chip.scale_out;
      link += (l.cp - 1) / l.cp * w.gather * s / (wire * e.links) + layers * e.hop;
    }
    if (l.pp > 1) {
      const wire = devicesOf(l) <= chip.domain ? chip.scale_up : chip.scale_out;
      link += w.tokens / w.cut * p.streams * p.hidden * p.item / (wire * e.links) + e.hop;
    }
    return link;
  }

  function costs(prediction, chip, l, load) {
    const hour = devicesOf(l) * chip.price, second = hour / 3600, prompt = load.context - load.answer;
    const mix = [prompt * load.hit, prompt * (1 - load.hit), load.answer];
    const rates = [prediction.load_rate, prediction.prefill_rate, prediction.decode_rate];
    const [cached, input, output] = rates.map((rate) => second / rate * 1e6);
    const request = (mix[0] * cached + mix[1] * input + mix[2] * output) / 1e6;
    return { hour, cached, input, output, request, requests_per_hour: 3600 / sum(mix.map((n, i) => n / rates[i])) };
  }

  // price: US$ per million tokens
  function breakEven(cost, price, load) {
    const prompt = load.context - load.answer;
    const income = (prompt * load.hit * price.cached + prompt * (1 - load.hit) * price.input + load.answer * price.output) / 1e6;
    const part = cost.hour / (income * cost.requests_per_hour);
    return { income, load: part, requests_per_day: 24 * cost.hour / income, margin: 1 - part };
  }

  function layouts(p, chip, devices, limits, users = Infinity) {
    const out = [];
    for (let tp = 1; tp <= Math.min(devices, chip.domain); tp *= 2) {
      if (p.groups % tp || p.index_heads % tp || devices % tp) continue;
      for (let pp = 1; pp <= Math.min(Math.floor(devices / tp), p.layers, limits.pp); pp++) {
        if (devices % (tp * pp)) continue;
        const stage = devices / pp;
        for (let cp = 1; cp <= Math.min(Math.floor(stage / tp), limits.cp); cp *= 2) {
          if (stage % (tp * cp) || stage / (tp * cp) > users) continue;
          const wide = gcd(stage, p.experts), near = gcd(gcd(stage, chip.domain), p.experts);
          for (const ep of wide === near ? [wide] : [Math.max(wide, near), Math.min(wide, near)])
            out.push({ tp, ep, pp, cp, dp: stage / (tp * cp) });
        }
      }
    }
    return out;
  }

  // What fits but is slow comes before what doesn't fit
  const nearer = (a, b) => !b || (a.reason === "memory") - (b.reason === "memory") < 0
    || ((a.reason === "memory") === (b.reason === "memory") && a.missing < b.missing);

  // The prediction and its costs, or the first reason why it is no option and by how much.
  function judge(p, chip, layout, load, limits, wishes) {
    const short = sum(Object.values(memory(p, chip, layout, load, limits.chunk))) - chip.memory * chip.efficiency.usable;
    if (short > 0) return { reason: "memory", missing: short };
    const prediction = predict(p, chip, layout, load, limits.chunk), rate = 1 / prediction.token_time;
    if (rate < wishes.speed) return { reason: "speed", missing: wishes.speed - rate };
    if (prediction.first_token > wishes.wait) return { reason: "wait", missing: prediction.first_token - wishes.wait };
    return { prediction, costs: costs(prediction, chip, layout, load) };
  }

  // Cheapest layout of each device count in order of cost, and the nearest miss of every count that has none.
  function search(p, chip, load, limits, counts, wishes = { speed: 0, wait: Infinity }) {
    const options = [], rejected = [];
    for (const count of counts) {
      let best = null, miss = null;
      for (const layout of layouts(p, chip, count, limits, load.users)) {
        const found = { devices: count, layout, ...judge(p, chip, layout, load, limits, wishes) };
        if (found.reason) miss = nearer(found, miss) ? found : miss;
        else if (!best || found.costs.request < best.costs.request) best = found;
      }
      if (best) options.push(best);
      else if (miss) rejected.push(miss);
    }
    options.sort((a, b) => a.costs.request - b.costs.request || a.devices - b.devices);
    return { options, rejected };
  }

  return { visibleSum, memory, predict, costs, breakEven, layouts, search, nearer, devicesOf };
})();

if (typeof module !== "undefined") module.exports = Plan;
