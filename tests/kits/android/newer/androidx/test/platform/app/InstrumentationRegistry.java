package androidx.test.platform.app;

import android.app.Instrumentation;

/** The signatures that BenchTest.kt uses; nothing of it is run. */
public final class InstrumentationRegistry {
    public static Instrumentation getInstrumentation() { throw new UnsupportedOperationException(); }
}
