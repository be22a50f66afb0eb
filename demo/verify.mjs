// demo/verify.mjs -- an independent judge: verifies a token with jose against a JWK Set
//   node verify.mjs TOKEN JWKS ISSUER AUDIENCE
import { createLocalJWKSet, jwtVerify } from 'jose';

const [token, jwks, issuer, audience] = process.argv.slice(2);
try {
  const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(JSON.parse(jwks)), { issuer, audience });
  console.log(`${protectedHeader.alg} ${protectedHeader.typ} tenant=${payload.tenant_id}`);
} catch (error) {
  console.log(`refused: ${error.code}`);
  process.exitCode = 1;
}
