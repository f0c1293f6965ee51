"""Django's PostgreSQL backend, with a time limit on everything (ENGINE = "pubsub_site.postgresql")."""
