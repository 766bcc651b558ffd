import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../base/errors.ts';
import {
  choosePlatform,
  type Descriptor,
  hostPlatform,
  parseImageConfig,
  parseIndexOrManifest,
  parsePlatform,
} from './oci-image.ts';

const SHA = 'a'.repeat(64);
const blob = (mediaType: string, more: object = {}): object => ({
  mediaType,
  digest: `sha256:${SHA}`,
  size: 1,
  ...more,
});
const CONFIG = blob('application/vnd.oci.image.config.v1+json');
const LAYER = 'application/vnd.oci.image.layer.v1.tar+gzip';

function isInvalid(error: unknown): boolean {
  return error instanceof UserError && error.code === 'invalid-image';
}

test('manifests of OCI and Docker are read, others refused', () => {
  const manifest = (layers: readonly object[]): string =>
    JSON.stringify({ schemaVersion: 2, config: CONFIG, layers });
  const docker = 'application/vnd.docker.image.rootfs.diff.tar.gzip';
  const parsed = parseIndexOrManifest(manifest([blob(LAYER), blob(docker)]));
  assert.ok('manifest' in parsed);
  assert.deepEqual(
    parsed.manifest.layers.map(({ sha256 }) => sha256),
    [SHA, SHA],
  );
  const wrong = [
    '{',
    '[]',
    '{"schemaVersion":1,"fsLayers":[]}',
    manifest([blob('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip')]),
    manifest([{ mediaType: LAYER, digest: `sha512:${SHA}`, size: 1 }]),
    manifest([{ mediaType: LAYER, digest: 'sha256:../../etc/passwd', size: 1 }]),
    manifest(Array.from({ length: 200 }, () => blob(LAYER))),
  ];
  for (const text of wrong) assert.throws(() => parseIndexOrManifest(text), isInvalid, text.slice(0, 80));
});

test('the platform of the host is chosen, and a variant where one is asked for', () => {
  const type = 'application/vnd.oci.image.manifest.v1+json';
  const index = parseIndexOrManifest(
    JSON.stringify({
      manifests: [
        blob(type, { platform: { os: 'linux', architecture: 'amd64' } }),
        blob(type, { platform: { os: 'linux', architecture: 'arm', variant: 'v6' } }),
        blob(type, { platform: { os: 'linux', architecture: 'arm', variant: 'v7' } }),
        blob('application/vnd.example.attestation', { platform: { os: 'linux', architecture: 's390x' } }),
      ],
    }),
  );
  assert.ok('index' in index);
  const chosen = (text: string): Descriptor['platform'] =>
    choosePlatform(index.index, parsePlatform(text)).platform;
  assert.equal(chosen('linux/arm/v7')?.variant, 'v7');
  assert.equal(chosen('linux/arm')?.variant, 'v6');
  assert.equal(choosePlatform(index.index, hostPlatform('x64')).platform?.architecture, 'amd64');
  for (const text of ['linux/arm/v8', 'linux/s390x', 'windows/amd64'])
    assert.throws(
      () => chosen(text),
      (error) => error instanceof UserError && error.code === 'image-not-found',
      text,
    );
});

test('a configuration may leave out what it likes, and not be of another shape', () => {
  const { entrypoint, env, healthcheck, user, diffIds } = parseImageConfig(
    '{"os":"linux","architecture":"amd64"}',
  );
  assert.deepEqual(
    { entrypoint, env, healthcheck, user, diffIds },
    { entrypoint: [], env: [], healthcheck: undefined, user: '', diffIds: [] },
  );
  const wrong = [
    '{"config":{"Env":"A=B"}}',
    '{"config":{"Cmd":[1]}}',
    '{"config":[]}',
    '{"rootfs":{"diff_ids":["sha256:x"]}}',
    '{"config":{"Labels":{"a":1}}}',
  ];
  for (const text of wrong) assert.throws(() => parseImageConfig(text), isInvalid, text);
});
