"""AnswerService."""
