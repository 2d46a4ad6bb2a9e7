-- One more failure within the window, or the first of a new one.
INSERT INTO access_sign_in_throttle AS t (key, failures, window_ends_at)
VALUES (%(key)s, 1, %(ends)s)
ON CONFLICT (key) DO UPDATE SET
    failures = CASE WHEN t.window_ends_at > %(now)s THEN t.failures + 1 ELSE 1 END,
    window_ends_at = CASE WHEN t.window_ends_at > %(now)s THEN t.window_ends_at ELSE excluded.window_ends_at END
