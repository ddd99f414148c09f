"""TranslateService."""
