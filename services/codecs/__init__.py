"""Bytes to arrays and back. Every check of untrusted bytes, and every size limit on them, is here."""
