-- Give the runtime role what it needs on every table that exists or will exist, and less where less is enough. One
-- statement, so that no reader ever sees it half done. A server without the role (one user for all) is left as it is.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dcops_app') THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public TO dcops_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO dcops_app;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO dcops_app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO dcops_app;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO dcops_app;
    REVOKE ALL ON audit_event FROM dcops_app;
    GRANT SELECT, INSERT ON audit_event TO dcops_app;
    REVOKE ALL ON django_migrations FROM dcops_app;
    GRANT SELECT ON django_migrations TO dcops_app;
END $$;
