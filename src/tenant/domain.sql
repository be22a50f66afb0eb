-- src/tenant/domain.sql: which mail domains are whose
--
-- The database asks no name server. A claim returns what the TXT record must say; whoever
-- looked it up outside calls domain_verify().

-- Mailboxes that anybody can get: an address there says nothing about who somebody works for.
CREATE OR REPLACE FUNCTION _grownext.tenant_domain_public(domain text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT domain = ANY ('{126.com,163.com,aol.com,att.net,bk.ru,bol.com.br,bt.com,comcast.net,cox.net,daum.net,duck.com,
        email.cz,fastmail.com,free.fr,freenet.de,gmail.com,gmx.at,gmx.ch,gmx.com,gmx.de,gmx.net,googlemail.com,
        guerrillamail.com,hanmail.net,hey.com,hotmail.co.uk,hotmail.com,hotmail.de,hotmail.es,hotmail.fr,hotmail.it,
        icloud.com,inbox.ru,laposte.net,libero.it,list.ru,live.co.uk,live.com,live.de,live.fr,live.nl,mac.com,mail.com,
        mail.ru,mailinator.com,me.com,msn.com,naver.com,orange.fr,outlook.com,outlook.de,outlook.es,outlook.fr,pm.me,
        posteo.de,proton.me,protonmail.ch,protonmail.com,qq.com,rambler.ru,rediffmail.com,rocketmail.com,sbcglobal.net,
        seznam.cz,sfr.fr,sina.com,sky.com,t-online.de,temp-mail.org,tiscali.it,tuta.com,tutanota.com,uol.com.br,
        verizon.net,virgilio.it,virginmedia.com,wanadoo.fr,web.de,wp.pl,yahoo.ca,yahoo.co.in,yahoo.co.jp,yahoo.co.uk,
        yahoo.com,yahoo.com.br,yahoo.de,yahoo.es,yahoo.fr,yahoo.it,yandex.com,yandex.ru,yeah.net,ymail.com,yopmail.com,
        zoho.com}'::pg_catalog.text[]);
$$;
COMMENT ON FUNCTION _grownext.tenant_domain_public(text) IS 'Whether anybody can get an address in a domain.';

-- The one spelling of a domain; raises if it is none that somebody can own.
CREATE OR REPLACE FUNCTION _grownext.tenant_domain_name(domain text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := lower(CASE WHEN right(domain, 1) = '.' THEN left(domain, -1) ELSE domain END);
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'domain must not be null';
    ELSIF length(name) > 253 OR name !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('domain "%s" is not valid', left(domain, 80)),
            HINT = 'Write it as in DNS, such as "example.com"; an internationalised one in its "xn--" form.';
    ELSIF _grownext.tenant_domain_public(name) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('anybody can have an address at "%s"', name),
            HINT = 'Name a domain that the organisation owns.';
    END IF;
    RETURN name;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_domain_name(text) IS 'A domain in its one spelling; raises if no tenant can own it.';

CREATE OR REPLACE FUNCTION _grownext.tenant_domain_json(claimed _grownext.tenant_domain) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('domain', claimed.domain, 'capture', claimed.capture, 'role', claimed.role, 'verified_at', claimed.verified_at);
$$;
COMMENT ON FUNCTION _grownext.tenant_domain_json(_grownext.tenant_domain) IS 'A claimed domain as jsonb, for events and audit.';

-- The tenant is locked.
CREATE OR REPLACE FUNCTION _grownext.tenant_domain_get(tenant_id uuid, domain text) RETURNS _grownext.tenant_domain
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed _grownext.tenant_domain;
BEGIN
    SELECT * INTO claimed FROM _grownext.tenant_domain AS d WHERE d.tenant_id = tenant_domain_get.tenant_id AND d.domain = tenant_domain_get.domain FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('tenant "%s" has not claimed domain "%s"', tenant_id, domain),
            HINT = format('SELECT grownext.domain_claim(%L, %L);', tenant_id, domain);
    END IF;
    RETURN claimed;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_domain_get(uuid, text) IS 'A claimed domain; raises if it is not claimed.';

CREATE OR REPLACE FUNCTION grownext.domain_claim(tenant_id uuid, domain text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := _grownext.tenant_domain_name(domain);
    claimed _grownext.tenant_domain;
BEGIN
    PERFORM _grownext.tenant_enter(tenant_id, 'domains.manage');
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    SELECT * INTO claimed FROM _grownext.tenant_domain AS d WHERE d.tenant_id = domain_claim.tenant_id AND d.domain = name;
    IF FOUND THEN
        RETURN claimed.token;
    ELSIF (SELECT count(*) FROM _grownext.tenant_domain AS d WHERE d.tenant_id = domain_claim.tenant_id) >= 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'a tenant claims at most 100 domains',
            HINT = 'SELECT grownext.domain_release(tenant_id, domain);';
    END IF;
    INSERT INTO _grownext.tenant_domain AS d (tenant_id, domain, token, created_at)
    VALUES (domain_claim.tenant_id, name, 'grownext-domain-verification=' || encode(_grownext.tenant_nonce(), 'hex'), _grownext.core_now())
    RETURNING d.* INTO claimed;
    PERFORM _grownext.tenant_record('domain.claimed', 'domain:' || name, tenant_id, NULL, _grownext.tenant_domain_json(claimed));
    RETURN claimed.token;
END
$$;
COMMENT ON FUNCTION grownext.domain_claim(uuid, text) IS 'Claims a domain; returns what a TXT record of it must say. The same claim again returns the same.';

CREATE OR REPLACE FUNCTION grownext.domain_verify(tenant_id uuid, domain text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := _grownext.tenant_domain_name(domain);
    claimed _grownext.tenant_domain;
    before jsonb;
BEGIN
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    claimed := _grownext.tenant_domain_get(tenant_id, name);
    IF claimed.verified_at IS NOT NULL THEN
        RETURN;
    END IF;
    before := _grownext.tenant_domain_json(claimed);
    BEGIN
        UPDATE _grownext.tenant_domain AS d SET verified_at = _grownext.core_now()
         WHERE d.tenant_id = domain_verify.tenant_id AND d.domain = name RETURNING d.* INTO claimed;
    EXCEPTION WHEN unique_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('domain "%s" belongs to another tenant', name),
            HINT = 'It has to be released there first: SELECT grownext.domain_release(tenant_id, domain);';
    END;
    PERFORM _grownext.tenant_record('domain.verified', 'domain:' || name, tenant_id, before, _grownext.tenant_domain_json(claimed));
END
$$;
COMMENT ON FUNCTION grownext.domain_verify(uuid, text) IS 'Notes that the TXT record was seen: the domain is this tenant''s and nobody else''s.';

CREATE OR REPLACE FUNCTION grownext.domain_update(tenant_id uuid, domain text, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := _grownext.tenant_domain_name(domain);
    caller_role text;
    claimed _grownext.tenant_domain;
    before jsonb;
BEGIN
    PERFORM _grownext.core_check_options(changes, '{"capture":"string","role":"string"}');
    IF changes ->> 'capture' <> ALL ('{manual,automatic_invitation,automatic_suggestion}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"capture" cannot be "%s"', left(changes ->> 'capture', 80)),
            HINT = 'Use manual, automatic_invitation or automatic_suggestion.';
    ELSIF changes ->> 'role' = 'owner' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'nobody becomes an owner by an address';
    END IF;
    caller_role := _grownext.tenant_enter(tenant_id, 'domains.manage');
    claimed := _grownext.tenant_domain_get(tenant_id, name);
    before := _grownext.tenant_domain_json(claimed);
    IF changes ? 'role' THEN
        PERFORM _grownext.tenant_check_role(tenant_id, changes ->> 'role');
    END IF;
    PERFORM _grownext.tenant_check_grade(tenant_id, caller_role, coalesce(changes ->> 'role', claimed.role));
    UPDATE _grownext.tenant_domain AS d SET capture = coalesce(changes ->> 'capture', d.capture), role = coalesce(changes ->> 'role', d.role)
     WHERE d.tenant_id = domain_update.tenant_id AND d.domain = name RETURNING d.* INTO claimed;
    IF before <> _grownext.tenant_domain_json(claimed) THEN
        PERFORM _grownext.tenant_record('domain.updated', 'domain:' || name, tenant_id, before, _grownext.tenant_domain_json(claimed));
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.domain_update(uuid, text, jsonb) IS 'Changes what happens to users with an address in a verified domain: capture, role.';

CREATE OR REPLACE FUNCTION grownext.domain_release(tenant_id uuid, domain text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := _grownext.tenant_domain_name(domain);
    before jsonb;
BEGIN
    PERFORM _grownext.tenant_enter(tenant_id, 'domains.manage');
    before := _grownext.tenant_domain_json(_grownext.tenant_domain_get(tenant_id, name));
    DELETE FROM _grownext.tenant_domain AS d WHERE d.tenant_id = domain_release.tenant_id AND d.domain = name;
    PERFORM _grownext.tenant_record('domain.released', 'domain:' || name, tenant_id, before, NULL);
END
$$;
COMMENT ON FUNCTION grownext.domain_release(uuid, text) IS 'Gives a claimed or verified domain up.';

CREATE OR REPLACE FUNCTION grownext.domain_match(user_id uuid) RETURNS SETOF grownext.domain_match
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.id, t.name, d.domain, d.capture, d.role
      FROM _grownext.account_user AS u
      JOIN _grownext.tenant_domain AS d ON d.domain = lower(substring(u.email FROM '[^@]+$')) AND d.verified_at IS NOT NULL AND d.capture <> 'manual'
      JOIN _grownext.tenant_tenant AS t ON t.id = d.tenant_id AND t.state = 'active'
     WHERE u.id = domain_match.user_id
       AND NOT EXISTS (SELECT FROM _grownext.tenant_member AS m WHERE m.tenant_id = t.id AND m.user_id = u.id);
$$;
COMMENT ON FUNCTION grownext.domain_match(uuid) IS 'The tenant that captured the domain of a user''s address, if the user is no member yet.';

CREATE OR REPLACE FUNCTION grownext.domain_join(tenant_id uuid, user_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    matched record;
BEGIN
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    SELECT * INTO matched FROM grownext.domain_match(domain_join.user_id) AS d
     WHERE d.tenant_id = domain_join.tenant_id AND d.capture = 'automatic_invitation';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('no domain of tenant "%s" invites user "%s"', tenant_id, coalesce(user_id::text, 'NULL')),
            HINT = 'Send an invitation: SELECT * FROM grownext.invitation_create(tenant_id, email);';
    END IF;
    PERFORM _grownext.tenant_check_role(tenant_id, matched.role);
    PERFORM _grownext.tenant_member_put(tenant_id, user_id, matched.role);
END
$$;
COMMENT ON FUNCTION grownext.domain_join(uuid, uuid) IS 'Makes a user a member whom a domain with capture automatic_invitation invites.';

CREATE OR REPLACE VIEW grownext.domain WITH (security_barrier) AS
    SELECT d.tenant_id, d.domain, CASE WHEN d.verified_at IS NULL THEN 'pending' ELSE 'verified' END AS state,
           d.token AS txt_record, d.capture, d.role, d.created_at, d.verified_at
      FROM _grownext.tenant_domain AS d
     WHERE (SELECT _grownext.tenant_sees_all())
        OR d.tenant_id = grownext.current_tenant() AND (SELECT _grownext.tenant_caller_may('domains.manage'));
COMMENT ON VIEW grownext.domain IS 'Claimed and verified domains; without the rights of a service, the own tenant''s, for members who manage them.';
