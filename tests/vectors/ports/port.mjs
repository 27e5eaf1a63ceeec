// A device in JavaScript, written from docs/protocol.md alone: what tests/vectors/conformance.py asks, with node:crypto.
// Run: python -m tests.vectors.conformance -- node tests/vectors/ports/port.mjs
import { createHash, createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import { createInterface } from 'node:readline'

class Refused extends Error {
  constructor(code) { super(code); this.code = code }
}
const refuse = (code) => { throw new Refused(code) }
const require = (holds, code = 'malformed') => { if (!holds) refuse(code) }
const hex = (text) => Buffer.from(text, 'hex')
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest()

// --- Ed25519 from raw keys: the fixed beginnings of SPKI and PKCS #8 (RFC 8410).
const publicKey = (raw) =>
  createPublicKey({ key: Buffer.concat([hex('302a300506032b6570032100'), raw]), format: 'der', type: 'spki' })
const privateKey = (raw) =>
  createPrivateKey({ key: Buffer.concat([hex('302e020100300506032b657004220420'), raw]), format: 'der', type: 'pkcs8' })

function verifyDocument(key, domain, digest, signature) {
  const message = Buffer.concat([Buffer.from(domain + '\0'), digest])
  require(signature.length === 64 && verify(null, message, publicKey(key), signature), 'untrusted-document')
}

// --- Strict JSON. Integers become BigInt, other numbers Number, so that 1 and 1.0 stay apart.
function parse(text) {
  let at = 0
  const space = () => { while (' \t\n\r'.includes(text[at]) && at < text.length) at++ }
  const take = (character) => { require(text[at] === character); at++ }
  function string() {
    const found = /^"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/.exec(text.slice(at))
    require(found)
    at += found[0].length
    const value = JSON.parse(found[0])
    require(value.isWellFormed())
    return value
  }
  function value() {
    space()
    if (text[at] === '{') {
      const members = new Map()
      at++
      space()
      if (text[at] !== '}') {
        for (;;) {
          space()
          const key = string()
          require(!members.has(key))
          space()
          take(':')
          members.set(key, value())
          space()
          if (text[at] !== ',') break
          at++
        }
      }
      take('}')
      return members
    }
    if (text[at] === '[') {
      const items = []
      at++
      space()
      if (text[at] !== ']') {
        for (;;) {
          items.push(value())
          space()
          if (text[at] !== ',') break
          at++
        }
      }
      take(']')
      return items
    }
    if (text[at] === '"') return string()
    const found = /^(?:true|false|null|-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?)/.exec(text.slice(at))
    require(found)
    at += found[0].length
    if (found[0] in { true: 1, false: 1, null: 1 }) return JSON.parse(found[0])
    return found[1] || found[2] ? Number(found[0]) : BigInt(found[0])
  }
  const whole = value()
  space()
  require(at === text.length)
  return whole
}

// --- The messages: every field with its type. "?" may be null, "*" is a list, "@2" came with version 2.
const KINDS = {
  Plan: 'version:int tenant:str population:str bundle_sha256:str epochs:int batch_size:int learning_rate:float ' +
    'proximal_mu:float clipping_norm:float lane_bits:int expected_participants:int max_participants:int goal:int ' +
    'min_reports:int close:goal|all_resolved summing:|plain privacy:|none min_examples:int time_limit_s:float ' +
    'rate_steps@2:*RateStep max_steps@2:?int max_example_age_s@2:?float evaluates@2:bool',
  RateStep: 'from_epoch:int factor:float',
  Manifest: 'version:int name:str graph_sha256:str tensors:*Tensor slots:*Tensor features:Schema inputs:*Shaped ' +
    'labels:Schema class_names:*str outputs:*Shaped loss:str metrics:*str optimizer:str proximal:bool seeded:bool ' +
    'batch_size:int dynamic_batch:bool default_plan:DefaultPlan signatures:*str operators:*Operator ' +
    'minimum_runtime:str measured:?Measured exporter:str',
  Tensor: 'name:str shape:*int trainable:bool role:base|adapter|personal',
  Schema: 'shape:*int dtype:str low:float high:float',
  Shaped: 'name:str shape:*int',
  DefaultPlan: 'epochs:int batch_size:int learning_rate:float',
  Operator: 'name:str version:int',
  Measured: 'runtime:str step_ms:float peak_memory_bytes:int',
  Enrol: 'version:int tenant:str population:str public_key:bytes app:str app_version:str platform:str evidence:|none',
  Enrolled: 'version:int device_id:str retry_after_s:float policy@2:?Policy',
  Policy: 'version:int needs_idle:bool needs_charging:bool battery_floor:float needs_unmetered:bool ' +
    'stop_at:light|moderate|severe|critical stops_in_power_saver:bool min_free_storage_bytes:int quiet_hours:*int ' +
    'daily_seconds:float daily_bytes:int daily_battery_share:float slice_s:float first_run_delay_s:float ' +
    'min_interval_s:float max_interval_s:float min_separation_s:float max_participations:?int',
  CheckIn: 'version:int population:str visit:str runtime:str examples:int',
  CheckInAnswer: 'version:int assignment:?Assignment retry:?RetryWindow policy@2:?Policy',
  Assignment: 'participation:str round:int plan:bytes plan_signature:bytes checkpoint_sha256:str deadline_s:float',
  RetryWindow: 'reason:str after_s:float spread_s:float',
  ReportHeld: 'version:int held_bytes:int',
  ReportComplete: 'version:int report_sha256:str',
  Receipt: 'version:int participation:str report_sha256:str retry_after_s:float',
  OutcomeNote: 'version:int reason:str costs@2:?Costs',
  Costs: 'seconds:int bytes:int battery_percent:int',
  OutcomeNoted: 'version:int retry_after_s:float',
  ReleaseQuery: 'version:int population:str held_sha256:?str',
  Released: 'version:int bundle_sha256:str checkpoint_sha256:str model_version:int final:bool',
  Problem: 'type:str title:str status:int detail:str code:str retry:str retry_after_s:?float server_time:int',
  Left: 'version:int device_id:str',
}
const VERSIONS = { Plan: [1n, 2n], Manifest: [2n], Enrol: [1n, 2n], Enrolled: [1n, 2n], CheckIn: [1n, 2n],
  CheckInAnswer: [1n, 2n], OutcomeNote: [1n, 2n], Problem: null }
const fieldsOf = (kind) => KINDS[kind].split(' ').map((field) => {
  const [name, type] = field.split(':')
  return { name: name.split('@')[0], since: BigInt(name.split('@')[1] ?? 0), type }
})

function read(kind, raw) {
  require(raw.length <= 1 << 20)
  let text
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw)
  } catch {
    refuse('malformed')
  }
  const tree = parse(text)
  const spoken = kind in VERSIONS ? VERSIONS[kind] : fieldsOf(kind)[0].name === 'version' ? [1n] : null
  if (spoken && tree instanceof Map && tree.has('version')) {
    require(typeof tree.get('version') === 'bigint')
    require(spoken.includes(tree.get('version')), 'unsupported-version')
  }
  return typed(kind, tree)
}

function typed(type, tree) {
  if (type[0] === '?') return tree === null ? null : typed(type.slice(1), tree)
  if (type[0] === '*') {
    require(Array.isArray(tree))
    return tree.map((item) => typed(type.slice(1), item))
  }
  if (type in KINDS) {
    require(tree instanceof Map)
    const version = tree.get('version')
    const fields = fieldsOf(type).filter(({ since }) => typeof version !== 'bigint' || since <= version)
    require(tree.size === fields.length && fields.every(({ name }) => tree.has(name)))
    return Object.fromEntries(fields.map((field) => [field.name, typed(field.type, tree.get(field.name))]))
  }
  if (type.includes('|')) require(typeof tree === 'string' && tree && type.split('|').includes(tree))
  else if (type === 'int') require(typeof tree === 'bigint' && tree > -(1n << 63n) && tree < 1n << 63n)
  else if (type === 'float') require(['bigint', 'number'].includes(typeof tree) && Number.isFinite(Number(tree)))
  else if (type === 'bool') require(typeof tree === 'boolean')
  else require(typeof tree === 'string')
  if (type === 'bytes') require(Buffer.from(tree, 'base64').toString('base64') === tree)
  return type === 'float' ? Number(tree) : tree
}

// --- Canonical writing.
function write(value) {
  if (typeof value === 'number') return float(value)
  if (typeof value === 'string') return quoted(value)
  if (Array.isArray(value)) return `[${value.map(write).join(',')}]`
  if (value === null || typeof value !== 'object') return String(value)
  return `{${Object.keys(value).sort().map((key) => `${quoted(key)}:${write(value[key])}`).join(',')}}`
}
const quoted = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) =>
  '\\u' + unit.charCodeAt(0).toString(16).padStart(4, '0'))
function float(number) {
  const sign = number < 0 || Object.is(number, -0) ? '-' : ''
  const [mantissa, power] = Math.abs(number).toExponential().split('e')
  const digits = mantissa.replace('.', '')
  const exponent = Number(power)
  if (exponent < -4 || exponent >= 16) {
    return `${sign}${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`
  }
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0')
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`
}

// --- Documents.
const isSha256 = (text) => /^[0-9a-f]{64}$/.test(text)
const sizeOf = (shape) => shape.reduce((product, side) => product * Number(side), 1)

function checkManifest(of) {
  const named = [of.tensors, of.slots, of.inputs, of.outputs]
  for (const list of named) {
    require(new Set(list.map(({ name }) => name)).size === list.length)
    require(list.every(({ name, shape }) => name && shape.every((side) => side > 0n)))
  }
  require(isSha256(of.graph_sha256) && of.tensors.length && of.inputs.length && of.outputs.length)
  require(of.inputs.reduce((sum, { shape }) => sum + sizeOf(shape), 0) === sizeOf(of.features.shape))
  const named_or_not = !of.class_names.length || of.labels.dtype !== 'int32' ||
    (of.labels.low === 0 && of.labels.high === of.class_names.length - 1)
  require(named_or_not && of.batch_size >= 1n && of.batch_size <= 65536n)
}

function verifyBundle({ raw: text, sha256: address, tenant_key }) {
  const raw = hex(text)
  require(sha256(raw).toString('hex') === address, 'digest-mismatch')
  require(raw.length > 84 && raw.length <= 512 * 2 ** 20, 'malformed-bundle')
  const body = raw.subarray(0, -64)
  verifyDocument(hex(tenant_key), 'edgewise/bundle/v1', sha256(body), raw.subarray(-64))
  require(raw.toString('latin1', 0, 4) === 'EWBN' && raw.readUInt16LE(6) === 0, 'malformed-bundle')
  require(raw.readUInt16LE(4) === 1, 'unsupported-version')
  const [m, g] = [raw.readUInt32LE(8), raw.readBigUInt64LE(12)]
  require(BigInt(raw.length) === 84n + BigInt(m) + g, 'malformed-bundle')
  let manifest
  try {
    manifest = read('Manifest', raw.subarray(20, 20 + m))
    checkManifest(manifest)
  } catch (problem) {
    refuse(problem.code === 'malformed' ? 'malformed-bundle' : problem.code)
  }
  require(sha256(raw.subarray(20 + m, -64)).toString('hex') === manifest.graph_sha256, 'digest-mismatch')
  const count = (tensors) => tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  const shared = manifest.tensors.filter(({ trainable, role }) => trainable && role !== 'personal')
  return { manifest: write(manifest), parameters: count(manifest.tensors), shared_parameters: count(shared) }
}

function verifyCheckpoint({ raw: text, sha256: address, coordinator_key, bundle_sha256, parameters }) {
  const raw = hex(text)
  require(sha256(raw).toString('hex') === address, 'digest-mismatch')
  require(raw.length >= 120, 'malformed-checkpoint')
  verifyDocument(hex(coordinator_key), 'edgewise/checkpoint/v1', sha256(raw.subarray(0, -64)), raw.subarray(-64))
  require(raw.toString('latin1', 0, 4) === 'EWCK' && raw.readUInt16LE(6) === 0, 'malformed-checkpoint')
  require(raw.readUInt16LE(4) === 1, 'unsupported-version')
  const [version, count] = [raw.readBigUInt64LE(40), raw.readBigUInt64LE(48)]
  require(version < 1n << 53n && BigInt(raw.length) === 120n + 4n * count, 'malformed-checkpoint')
  require(raw.toString('hex', 8, 40) === bundle_sha256 && count === BigInt(parameters), 'wrong-checkpoint')
  const weights = raw.subarray(56, -64)
  for (let at = 0; at < weights.length; at += 4) require(Number.isFinite(weights.readFloatLE(at)), 'invalid-weights')
  return { model_version: Number(version), weights: weights.toString('hex') }
}

function verifyPlan({ raw: text, signature, tenant_key }) {
  const raw = hex(text)
  verifyDocument(hex(tenant_key), 'edgewise/plan/v1', sha256(raw), hex(signature))
  const plan = read('Plan', raw)
  const within = (value, low, high) => value >= low && value <= high
  const ok = plan.tenant && plan.population && isSha256(plan.bundle_sha256) && within(plan.epochs, 1n, 1000n) &&
    within(plan.batch_size, 1n, 65536n) && plan.learning_rate > 0 && plan.learning_rate <= 1000 &&
    within(plan.proximal_mu, 0, 1000) && within(plan.min_reports, 1n, plan.goal) &&
    plan.goal <= plan.max_participants && within(plan.expected_participants, 1n, plan.max_participants) &&
    plan.min_examples >= 1n && plan.time_limit_s > 0 && plan.time_limit_s <= 86400 && plan.lane_bits === 32n &&
    within(plan.max_participants, 1n, 1n << 23n) && within(plan.clipping_norm, 1e-9, 1e6)
  const steps = plan.rate_steps ?? []
  const rising = steps.every((step, index) => step.from_epoch >= 0n && step.factor > 0 && step.factor <= 1000 &&
    (index === 0 || step.from_epoch > steps[index - 1].from_epoch))
  const limits = (plan.max_steps ?? 1n) >= 1n && (plan.max_example_age_s ?? 1) > 0
  require(ok && rising && limits, 'invalid-plan')
  return { plan: write(plan) }
}

// --- Reports.
function writeReport({ participation, delta, draws, clipping_norm: norm, max_participants: n }) {
  const values = Float32Array.from(delta)
  const length = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  const clipped = length <= norm ? values : values.map((value) => value * (norm / length))
  const scale = (2 ** 31 - 1 - n) / (n * norm)
  const raw = Buffer.alloc(32 + 4 * (delta.length + 4))
  raw.write('EWRP', 'latin1')
  raw.writeUInt16LE(1, 4)
  raw.writeUInt8(32, 6)
  hex(participation).copy(raw, 8)
  raw.writeUInt32LE(delta.length + 4, 24)
  clipped.forEach((value, index) => {
    const scaled = Math.max(-norm, Math.min(norm, value)) * scale
    const lane = Math.floor(scaled) + (draws[index] < scaled - Math.floor(scaled) ? 1 : 0)
    raw.writeInt32LE(lane, 32 + 4 * index)
  })
  return { raw: raw.toString('hex') }
}

function openReport({ raw: text, participation, lane_bits, max_participants: n, parameters }) {
  const raw = hex(text)
  require(raw.length === 32 + 4 * (parameters + 4), 'report-length')
  require(raw.toString('latin1', 0, 4) === 'EWRP' && !raw.readUInt8(7) && !raw.readUInt32LE(28), 'malformed-report')
  require(raw.readUInt16LE(4) === 1, 'unsupported-version')
  const agreed = raw.toString('hex', 8, 24) === participation && raw.readUInt8(6) === lane_bits
  require(agreed && raw.readUInt32LE(24) === parameters + 4, 'malformed-report')
  const lanes = Array.from({ length: parameters + 4 }, (_, index) => raw.readInt32LE(32 + 4 * index))
  require(lanes.slice(-4).every((lane) => lane === 0), 'lanes-out-of-range')
  require(lanes.every((lane) => Math.abs(lane) <= Math.floor((2 ** 31 - 1) / n)), 'lanes-out-of-range')
  return { lanes }
}

// --- Requests.
function signRequest({ private_key, device_id, method, target, body, created, nonce }) {
  const digest = `sha-256=:${sha256(hex(body)).toString('base64')}:`
  const parameters = '("@method" "@path" "@query" "content-digest")' +
    `;created=${created};keyid="${device_id}";alg="ed25519";nonce="${nonce}";tag="edgewise-device/1"`
  const mark = target.indexOf('?')
  const [path, query] = mark < 0 ? [target, ''] : [target.slice(0, mark), target.slice(mark + 1)]
  const base = [`"@method": ${method}`, `"@path": ${path}`, `"@query": ?${query}`, `"content-digest": ${digest}`,
    `"@signature-params": ${parameters}`].join('\n')
  const signature = sign(null, Buffer.from(base), privateKey(hex(private_key))).toString('base64')
  return { 'content-digest': digest, 'signature-input': `edgewise=${parameters}`, signature: `edgewise=:${signature}:` }
}

const ANSWERS = {
  'bundle.verify': verifyBundle,
  'checkpoint.verify': verifyCheckpoint,
  'device.id': ({ tenant, public_key }) =>
    ({ device_id: sha256(Buffer.from(`edgewise/device/v1\0${tenant}\0`), hex(public_key)).toString('hex').slice(0, 32) }),
  'float.write': ({ bits }) => ({ text: float(hex(bits).readDoubleBE()) }),
  'message.rewrite': ({ message, json }) => ({ json: write(read(message, Buffer.from(json))) }),
  'plan.verify': verifyPlan,
  'report.open': openReport,
  'report.write': writeReport,
  'request.sign': signRequest,
}
for await (const line of createInterface({ input: process.stdin })) {
  const { vector, input } = JSON.parse(line)
  let answer
  try {
    answer = { ok: ANSWERS[vector](input) }
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem
    answer = { refused: problem.code }
  }
  console.log(JSON.stringify(answer))
}
