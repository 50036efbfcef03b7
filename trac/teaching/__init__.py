"""What the book teaches with: small problems solved exactly, figures, exercises that check themselves."""
