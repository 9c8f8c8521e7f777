package dev.cmexport.bench

import androidx.test.core.app.ActivityScenario
import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import java.io.File
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

/** Runs the job that bench.sh has put into the app's own folder, with the app in front. */
@RunWith(AndroidJUnit4::class)
class BenchTest {
    @Test
    fun job() {
        val context = InstrumentationRegistry.getInstrumentation().targetContext
        val folder = File(context.filesDir, "job")
        val result = File(context.filesDir, "result.jsonl")
        ActivityScenario.launch(BenchActivity::class.java).use { scenario ->
            lateinit var activity: BenchActivity
            scenario.onActivity { activity = it }
            val fine = Lines(result).use { Runner(folder, it, Phone(context), activity::show).run() }
            assertTrue("the last line of result.jsonl says why", fine)
        }
    }
}
